"""Campaign `hostile-uart`: random bytes, with Ctrl-A to Ctrl-E among them, into every UART.

The whole firmware under MicroPython on its bench, its prompt closed; a car charges. Bursts of
bytes come into the meter's line, before, between and behind the meter's replies, and into the
console: first without a pause into devices that are just starting, then for as long as the car
charges. No prompt comes, the device does not restart, the meter is read on, no register that it
does not have is believed, and the session's record holds what went through.

A wrong design: the same device with its prompt open.
"""

import contextlib
import json
import os
import pty
import random
import select
import threading
import time
import tty

from evmeter_tools.bench.console import PROMPT, ConsoleDevice
from evmeter_tools.bench.stand import Bench
from evmeter_tools.faults.hostile import _fresh, _until
from evmeter_tools.faults.result import Result

_TRIALS = 100000
_STEP_S = 0.05
_PAUSE_S = 0.1  # between two bursts, on the average
_BURST = 120  # bytes, at most
_CONTROLS = bytes(range(1, 6))
_LOAD_W = 10000
_UNTOLD_MWH = 3 * _LOAD_W * 1000 // 3600  # the rig tells its register once a second
_STARTS = 3
_START_S = 3
_LEAST_SHARE = 3  # one in so many seconds the meter is read, whatever comes
_RAW = b"raw REPL"
_TYPED = (b"\x01", b"\x02", b"\x03\x03", b"\x04", b"\r\x03\x03\r\x01", b"\x05A\x01",
          b"print(6 * 7)\x04", b"\r\nimport os\r\n")


class NoisyLine:
    """Stands between the device and the meter; `inject` puts bytes before the device's nose. A
    context manager."""

    def __init__(self, folder):
        self._link = folder / "meter.tty"
        self._far = os.open(os.path.realpath(self._link), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._far)
        self._near, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._near, False)
        self._link.unlink()
        self._link.symlink_to(os.ttyname(self._slave))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._pump)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        for file in (self._far, self._near, self._slave):
            os.close(file)

    def _pump(self):
        ways = {self._far: self._near, self._near: self._far}
        while not self._ended.is_set():
            for file in select.select(list(ways), [], [], _STEP_S)[0]:
                with contextlib.suppress(OSError):
                    os.write(ways[file], os.read(file, 4096))

    def inject(self, data):
        """What does not fit is lost."""
        with contextlib.suppress(OSError):
            os.write(self._near, data)


class _Seen:
    """What the device told of its readings, and whether that can be."""

    def __init__(self, bench, result):
        self._bench = bench
        self._result = result
        self._told_at = 0.0
        self._read_at = 0.0
        self.readings = 0
        self.last_mwh = bench.start_mwh

    def look(self):
        watch = self._bench.watch
        told, at = watch.telemetry, watch.telemetry_at
        if at == self._told_at or "age_ms" not in told:
            return
        self._told_at = at
        read_at = at - told["age_ms"] / 1000
        if read_at > self._read_at + 0.5:
            self.readings += 1
            self._read_at = read_at
        most_mwh = self._bench.register_mwh() + _UNTOLD_MWH
        if not self.last_mwh <= told["e_mwh"] <= most_mwh:
            self._result.wrong("register %d is believed; the meter shows %d"
                               % (told["e_mwh"], self._bench.register_mwh()))
        self.last_mwh = told["e_mwh"]


def _burst(rng):
    data = bytearray(rng.randbytes(rng.randint(1, _BURST)))
    for _ in range(rng.randint(0, 4)):
        data[rng.randrange(len(data))] = rng.choice(_CONTROLS)
    return bytes(data) + (rng.choice(_TYPED) if rng.random() < 0.3 else b"")


def _shown(device, result, when):
    """Whether a prompt came: then nothing else is of interest."""
    if device.prompts or PROMPT in device.said or _RAW in device.said:
        result.wrong("%s: the prompt came: %r" % (when, device.said[-80:]))
        return True
    return False


def _starts(bench, rng, result):
    """Bytes into a device that is just starting, as fast as they are taken."""
    device = bench.device
    for _ in range(_STARTS):
        device.start()
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            device.type(_burst(rng) + b"\x03")
            result.counts["bytes into a starting device"] += _BURST // 2
            time.sleep(0.002)
            if _shown(device, result, "at the start"):
                return False
        device.watchdog_reset()
    return True


def _charge(bench, line, rng, trials, result, progress):
    device, watch = bench.device, bench.watch
    device.start()
    _until(bench, "the boot", lambda: watch.count("boot"))
    bench.rig.tell(pilot="C", load_w=_LOAD_W)
    _until(bench, "the session", lambda: watch.count("open"))
    _until(bench, "a reading", lambda: watch.telemetry.get("sid"))
    seen, boots = _Seen(bench, result), (watch.count("boot"), device.restarts)
    begun, sent = time.monotonic(), 0
    while sent < trials and not _shown(device, result, "in a session"):
        data = _burst(rng)
        line.inject(data)
        device.type(data)
        sent += len(data)
        seen.look()
        if progress:
            progress(sent, trials)
        time.sleep(rng.random() * 2 * _PAUSE_S)
    seconds = time.monotonic() - begun
    result.trials += sent
    result.counts.update({"seconds of noise": int(seconds), "readings in them": seen.readings})
    if result.violations:
        return
    if seen.readings < int(seconds) // _LEAST_SHARE:
        result.wrong("%d readings in %d s" % (seen.readings, seconds))
    bench.rig.tell(pilot="A")
    _until(bench, "the record", lambda: watch.count("close"))
    (end,) = [body for name, body in watch.events if name == "close"]
    register_mwh = bench.final_register_mwh()
    if end["end_mwh"] != register_mwh or end["st"] != "G":
        result.wrong("it ends at %d, %s; the meter shows %d"
                     % (end["end_mwh"], end["st"], register_mwh))
    if boots != (watch.count("boot"), device.restarts):
        result.wrong("it restarted in the session")


def _play(folder, closed, trials, seed, result, progress=None):
    rng = random.Random(seed)
    with Bench(folder, "noisy", interpreter="micropython") as bench:
        store = bench.folder / "nvs.json"
        store.write_text(json.dumps({**json.loads(store.read_text()), "lock": int(closed)}))
        bench.device = ConsoleDevice(bench.folder)
        try:
            with NoisyLine(bench.folder) as line:
                if _starts(bench, rng, result):
                    _charge(bench, line, rng, trials, result, progress)
        finally:
            bench.device.close()


def uart(trials=_TRIALS, seed=1, progress=None):
    """Campaign `hostile-uart`: so many bytes into each UART while a car charges."""
    result = Result("hostile-uart")
    with _fresh("hostile-uart") as folder:
        _play(folder / "closed", True, trials, seed, result, progress)
        tried = Result("control")
        _play(folder / "open", False, trials, seed, tried)
        result.controls["a device whose prompt is open"] = any(
            "the prompt came" in text for text in tried.texts)
    return result
