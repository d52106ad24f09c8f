"""The whole way of the records that a meter signs itself: emulated BSM-WS36A, device, broker,
backend, export, verifier. And such records of real meters, as the public has them."""

import json
import time

from evmeter_tools.backend.sessions import device_report, export_lines
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.signing import SigningPart
from evmeter_tools.bench.stand import Bench
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import judge
from evmeter_tools.verify.read import find_all
from vectors.foreign_ocmf import BSM_KEY, BSM_RECORDS, OTHERS

_METER = {"profile": "bauer_bsm_ws36a", "baud": 19200, "pass_through": True}
_SERIAL = 21034567
_LIMIT_S = 40


def _play(bench):
    def until(condition):
        deadline = time.monotonic() + _LIMIT_S
        while not condition():
            bench.check()
            assert time.monotonic() < deadline, bench.watch.lines[-20:]
            time.sleep(0.05)

    bench.device.start()
    until(lambda: bench.watch.count("boot"))
    start_mwh = bench.register_mwh()
    bench.rig.tell(pilot="C", load_w=10000)
    until(lambda: bench.register_mwh() - start_mwh >= 20000)
    until(lambda: bench.watch.count("meter_record"))
    bench.rig.tell(pilot="A")
    until(lambda: bench.watch.count("meter_record") >= 2)
    until(lambda: bench.watch.head and bench.watch.confirmed >= bench.watch.head)


def test_a_meters_own_records_go_all_the_way_word_for_word(tmp_path):
    with Bench(tmp_path, "demo-0001", baud=19200, meter_settings=_METER) as bench:
        _play(bench)
        store = Store(bench.database)
        lines = "".join(line + "\n" for line in export_lines(store, "demo-0001"))
        stored = device_report(store, "demo-0001")
        store.close()
    report = judge(*find_all(lines.encode(), "export"), bytes.fromhex(bench.spki), is_whole=True)
    for found in (report, stored):
        assert found.ok, [entry.reasons for entry in found.entries]
        (session,) = found.sessions
        assert [own.tx for own in session.own] == ["B", "E"]
        assert all(own.signature and own.serial == "001BZR0021034567" for own in session.own)
        assert {own.key for own in session.own} == {SigningPart(_SERIAL, lambda: 0).spki}
        ours, own = session.energy_mwh, session.own[1].total_mwh - session.own[0].total_mwh
        assert 0 <= own <= ours + 20_000  # the meter's begin record comes a second after ours


def test_records_of_real_meters_are_read_and_their_signatures_judged():
    for text in BSM_RECORDS:
        verdict = check_record(text, BSM_KEY)
        assert verdict.signature is True
        # keys of the maker inside a reading, and a register that S.A.F.E. does not bill from
        assert not verdict.ok and "unknown key XV" in " / ".join(verdict.reasons)
        assert check_record(text.replace('"RV":0', '"RV":1'), BSM_KEY).signature is False
    for text, key, signed, words in OTHERS:
        verdict = check_record(text, key)
        assert verdict.signature is signed, (text, verdict.reasons)
        assert not verdict.ok and words in " / ".join(verdict.reasons), verdict.reasons


def test_real_records_that_a_device_passed_through_are_taken_for_what_they_are():
    from evmeter_tools.verify.audit import own_record

    begin, end = [own_record({"tx": tx, "meter_ocmf": text, "meter_spki": BSM_KEY})
                  for tx, text in zip("BE", BSM_RECORDS, strict=True)]
    assert begin.signature and end.signature
    assert (begin.page, end.page) == ("T4276", "T4277")
    assert (begin.total_mwh, end.total_mwh) == (99_840_000, 100_000_000)
    assert (begin.step_mwh, end.energy_mwh) == (10_000, 150_000)
    assert json.loads(end.text.split("|")[1])["MS"] == end.serial == "001BZR1521070006"
