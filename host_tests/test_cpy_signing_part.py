"""The emulated BSM-WS36A's signing part against the device's driver, and the whole way of its
records: meter, device, broker, backend, export, verifier, receipt."""

import time

from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import Bench
import json

_METER = {"profile": "bauer_bsm_ws36a", "baud": 19200, "pass_through": True}


def test_a_meters_own_records_reach_the_backend_word_for_word(tmp_path):
    with Bench(tmp_path, "demo-0001", baud=19200, meter_settings=_METER) as bench:
        bench.device.start()
        def until(condition, seconds=40):
            deadline = time.monotonic() + seconds
            while not condition():
                bench.check()
                assert time.monotonic() < deadline, bench.watch.lines[-20:]
                time.sleep(0.05)
        until(lambda: bench.watch.count("boot"))
        start = bench.register_mwh()
        bench.rig.tell(pilot="C", load_w=10000)
        until(lambda: bench.register_mwh() - start >= 20000)
        bench.rig.tell(pilot="A")
        until(lambda: bench.watch.count("close"))
        until(lambda: bench.watch.count("meter_record") >= 2)
        until(lambda: bench.watch.head and bench.watch.confirmed >= bench.watch.head)
        store = Store(bench.database)
        for row in store.rows("demo-0001"):
            print(row.seq, row.stream, row.kind, row.verdict, row.why, row.payload.decode()[:1500])
        store.close()
    assert 0
