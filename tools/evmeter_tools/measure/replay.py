"""How fast a backlog goes out: the uplink under MicroPython, from its journal through
mosquitto to the collector and back, beside the same firmware, bytes and window with a stub."""

import json
import statistics
import subprocess
import sys

from evmeter_tools.bench.backlog import Backlog
from evmeter_tools.errors import UserError
from evmeter_tools.faults.uplink_stand import Device, Stand
from evmeter_tools.host_device import micropython
from evmeter_tools.paths import ROOT

_SESSIONS = 150
_DAYS = 30
_RUNS = 5
_LIMIT_S = 120
_CONFIG = {"id": "replay", "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
           "mqtt": {"host": "127.0.0.1", "port": 1, "tls": "off"}}


def _run(stand, backlog, number, port, window):
    """One delivery of the whole backlog: what the device says at its end."""
    with Device(stand, "replay-%d" % number, port, 0, window=window, live=False,
                key=backlog.known["k"], spki=backlog.known["spki"],
                folder=backlog.folder) as device:
        device.wait(_LIMIT_S)
        return device.figures()


def _window():
    from evmeter.system import config

    return config.parse(json.dumps(_CONFIG))["mqtt"]["window"]


def ratio(sessions=_SESSIONS, runs=_RUNS):
    """replay_ratio and reconnect_first_ack_ms, at the window that is the default."""
    if micropython() is None:
        raise UserError("no MicroPython in build/bin; run 'make setup'")
    window = _window()
    rates, stub_rates, first_ms = [], [], []
    with Stand("replay") as stand:
        backlog = Backlog(stand.folder / "device", "replay")
        backlog.fill(sessions, _DAYS)
        frames = len(backlog.hashes)
        with subprocess.Popen(
                [sys.executable, "-m", "evmeter_tools.measure.stub", backlog.known["k"]],
                cwd=ROOT / "tools", stdout=subprocess.PIPE, text=True) as stub:
            try:
                port = int(stub.stdout.readline())
                for number in range(runs):
                    figures = _run(stand, backlog, 2 * number, port, window)
                    stub_rates.append(frames * 1000 / figures["ms"])
                    figures = _run(stand, backlog, 2 * number + 1, stand.broker.port, window)
                    rates.append(frames * 1000 / figures["ms"])
                    first_ms.append(figures["first_ms"])
            finally:
                stub.kill()
        stored = stand.stored("replay-1")
        if stored != frames:
            raise UserError("the backend has %d of %d frames" % (stored, frames))
    rate, stub_rate = statistics.median(rates), statistics.median(stub_rates)
    each = ["%.2f" % (real / best) for real, best in zip(rates, stub_rates, strict=True)]
    yield ("replay_ratio", round(rate / stub_rate, 3),
           "%d frames, window %d: %d/s with mosquitto, collector and SQLite, %d/s with the stub "
           "(medians of %d; one by one: %s)" % (frames, window, rate, stub_rate, runs,
                                                ", ".join(each)))
    yield ("reconnect_first_ack_ms", round(statistics.median(first_ms)),
           "from the first packet to the backend's first acknowledgement, after the status; %d to "
           "%d ms" % (min(first_ms), max(first_ms)))
