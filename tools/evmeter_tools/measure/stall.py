"""How long the pilot is not looked at: the real firmware on the host board signs, writes its
journal, and loses its broker."""

import re
import tempfile
import time
from pathlib import Path

from evmeter_tools.bench.stand import Bench
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice
from evmeter_tools.measure import vm
from evmeter_tools.paths import BUILD, FIRMWARE

_MAIN = FIRMWARE / "main.py"
_SESSIONS = 2
_STEP_S = 30
_CHARGE_S = 4
_BROKER_OFF_S = 3
_LOAD_W = 10000


class _Timed(HostDevice):
    """Runs the firmware with a look at the time of each window."""

    def command(self, script):
        return super().command(vm.SCRIPTS / "pilot_stall.py" if script == _MAIN else script)


def gaps(log):
    """(usual, longest) time in ms between two windows, from a device's log. Raises UserError."""
    usual = re.findall(r"^usual (\d+)$", log, re.MULTILINE)
    longest = re.findall(r"^longest (\d+) after", log, re.MULTILINE)
    if not (usual and longest):
        raise UserError("the device told no times: %s" % (log.strip().splitlines() or [""])[-1])
    return int(usual[0]), int(longest[-1])


def _until(bench, what, condition):
    deadline = time.monotonic() + _STEP_S
    while not condition():
        bench.check()
        if time.monotonic() > deadline:
            raise UserError("waited %d s in vain: %s" % (_STEP_S, what))
        time.sleep(0.05)


def _session(bench, number):
    """A session in which the broker is lost; its end is signed while the backlog is sent."""
    bench.rig.tell(pilot="C", load_w=_LOAD_W)
    _until(bench, "a session opens", lambda: bench.watch.count("open") >= number)
    time.sleep(_CHARGE_S)
    bench._broker.kill()
    time.sleep(_BROKER_OFF_S)
    bench._broker.start()
    time.sleep(_BROKER_OFF_S)
    bench.rig.tell(pilot="A")
    _until(bench, "a session closes", lambda: bench.watch.count("close") >= number)


def pilot():
    """pilot_stall_max_ms, above the window's own period."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        with Bench(folder, "stall-0001", checkpoint_s=5) as bench:
            bench.device = _Timed(bench.folder, bench.device.interpreter)
            bench.device.start()
            _until(bench, "the device boots", lambda: bench.watch.count("boot") >= 1)
            for number in range(1, _SESSIONS + 1):
                _session(bench, number)
        usual_ms, longest_ms = gaps((Path(folder) / "device.log").read_text(errors="replace"))
    yield ("pilot_stall_max_ms", longest_ms - usual_ms,
           "on this machine: longest gap %d ms, usual %d ms; %d sessions, in each the broker lost "
           "and back" % (longest_ms, usual_ms, _SESSIONS))
