"""Heap: the smallest 32-bit one in which the whole firmware plays a session, signs, publishes.

The firmware runs as bytecode, as on the device, on the bench of `evmeter demo`: emulated meter and
vehicle, a broker, the collector. The host board stands for the chip's: what its modules and its
emulated flash take is taken off, beside what the firmware's own modules do (loaded_ram_kib).
"""

import shutil
import tempfile
import time

from evmeter_tools.bench.stand import Bench
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice
from evmeter_tools.measure import size, vm
from evmeter_tools.paths import BUILD, FIRMWARE, HOST_BOARD, LOGGING, ROOT, UMQTT

_IMAGE = BUILD / "measure-image"
_AMPLE_KIB = 512
_STEP_KIB = 1
_SESSION_S = 30
_POLL_S = 0.05
_OUT_OF_MEMORY = b"memory allocation failed"


class _Device(HostDevice):
    """The firmware's bytecode on a 32-bit MicroPython; `heap_kib` may change between starts."""

    def __init__(self, folder, machine):
        super().__init__(folder)
        self._machine = machine
        self.heap_kib = _AMPLE_KIB

    def command(self, script):
        # modules beside the script come first: it must not be where the sources are
        if script.parent == FIRMWARE:
            script = shutil.copy(script, _IMAGE)
        command, env = self._machine.command(str(script), heap="%dk" % self.heap_kib,
                                             path=(_IMAGE,))
        return command, dict(env, EVMETER_HOST_DIR=str(self.folder))


def _image():
    """Compile the firmware with the host board to build/measure-image."""
    shutil.rmtree(_IMAGE, ignore_errors=True)
    for root, names in ((FIRMWARE, "evmeter/**/*.py"), (ROOT, "drivers/**/*.py"),
                        (HOST_BOARD, "*.py"), (UMQTT, "**/*.py"), (LOGGING, "**/*.py")):
        for path in sorted(root.glob(names)):
            size.compiled(path, path.relative_to(root), _IMAGE)
    shutil.copytree(ROOT / "drivers/meter_profiles", _IMAGE / "drivers/meter_profiles",
                    dirs_exist_ok=True)


def _session(bench):
    """Whether the device, started anew, plays a session and has its records confirmed."""
    device, watch = bench.device, bench.watch
    log = device.folder / "device.log"
    begin = log.stat().st_size if log.exists() else 0

    def until(condition):
        deadline = time.monotonic() + _SESSION_S
        while not condition():
            if not device.running() or time.monotonic() > deadline:
                return False
            with log.open("rb") as file:
                file.seek(begin)
                if _OUT_OF_MEMORY in file.read():
                    return False
            time.sleep(_POLL_S)
        return True

    wanted = {name: watch.count(name) + 1 for name in ("boot", "open", "close")}
    device.start()
    try:
        if not until(lambda: watch.count("boot") >= wanted["boot"]):
            return False
        start_mwh = bench.register_mwh()
        bench.rig.tell(pilot="C", load_w=10000)
        if not until(lambda: bench.register_mwh() - start_mwh > 5000
                     and watch.count("open") >= wanted["open"]):
            return False
        bench.rig.tell(pilot="A")
        return until(lambda: watch.count("close") >= wanted["close"]
                     and watch.confirmed >= watch.head)
    finally:
        bench.rig.tell(pilot="A")
        device.cut_power()


def smallest():
    """heap_min_kib: by halving, each size played on the same device."""
    machine, reason = vm.small()
    if machine is None:
        print("heap_min_kib is not measured: %s" % reason)
        return
    _image()
    with tempfile.TemporaryDirectory() as folder:
        found = machine.run("image_heap.py", folder, path=(_IMAGE,))
        loaded_kib, flash_kib = found["imported"] / 1024, found["flash"] / 1024
        bench = Bench(folder, "heap-0001")
        bench.device = _Device(bench.folder, machine)
        with bench:
            if not _session(bench):
                raise UserError("the firmware does not run a session on %s: %s" % (
                    machine, (bench.folder / "device.log").read_text(errors="replace")[-300:]))
            low, high = int(loaded_kib), _AMPLE_KIB  # high works, low does not
            while high - low > _STEP_KIB:
                bench.device.heap_kib = middle = (low + high) // 2
                worked = _session(bench)
                low, high = (low, middle) if worked else (middle, high)
    yield ("heap_min_kib", round(high - loaded_kib - flash_kib, 1),
           "a heap of %d KiB, less %.1f that firmware and host board take once imported and %.1f "
           "of emulated flash; on %s" % (high, loaded_kib, flash_kib, machine))
