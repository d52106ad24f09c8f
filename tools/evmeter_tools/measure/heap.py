"""Heap: the smallest 32-bit one in which the whole firmware plays a session, signs, publishes.

The firmware runs from a ROMFS outside of the heap, as on the device, on the bench of `evmeter
demo`: emulated meter and vehicle, a broker, the collector. The host board stands for the chip's:
what its modules and the emulated chip (flash, second store, the meter's line, the ADC's samples)
take is taken off, beside what the firmware's own modules do (loaded_ram_kib).
"""

import shutil
import tempfile
import time
from pathlib import Path

from evmeter_tools.bench.stand import Bench
from evmeter_tools.device import image
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice
from evmeter_tools.measure import vm
from evmeter_tools.paths import BUILD, HOST_BOARD

_FILES = BUILD / "measure-host"
_IMAGE = BUILD / "measure-host.romfs"
_AMPLE_KIB = 512
_STEP_KIB = 1
_SESSION_S = 30
_POLL_S = 0.05
_OUT_OF_MEMORY = b"memory allocation"  # at the very end there is none for the word "failed"


class _Device(HostDevice):
    """The firmware's bytecode on a 32-bit MicroPython; `heap_kib` may change between starts."""

    def __init__(self, folder, machine, image):
        super().__init__(folder)
        self._machine = machine
        self._image = image
        self.heap_kib = _AMPLE_KIB

    def command(self, script):
        command, env = self._machine.command("start.py", str(self._image), str(script),
                                             heap="%dk" % self.heap_kib)
        return command, dict(env, EVMETER_HOST_DIR=str(self.folder), MICROPYPATH=".frozen")


def _pack():
    """Compile the firmware with the host board, and pack it."""
    shutil.rmtree(_FILES, ignore_errors=True)
    files = [*image.sources(), *((path, Path(path.name)) for path in HOST_BOARD.glob("*.py"))]
    image.compile_all(files, _FILES, "xtensawin")
    _IMAGE.write_bytes(image.romfs(_FILES))


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


def _search(machine, image):
    """(the smallest heap, what the imports take, what the emulated chip takes), in KiB, by
    halving; each size is played on the same device."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, "heap-0001")
        bench.device = _Device(bench.folder, machine, image)
        with bench:
            if not _session(bench):
                raise UserError("the firmware does not run a session on %s: %s" % (
                    machine, (bench.folder / "device.log").read_text(errors="replace")[-300:]))
            found = machine.run("image_heap.py", str(image), str(bench.folder))
            loaded_kib, chip_kib = found["imported"] / 1024, found["emulated"] / 1024
            low, high = int(loaded_kib), _AMPLE_KIB  # high works, low does not
            while high - low > _STEP_KIB:
                bench.device.heap_kib = middle = (low + high) // 2
                worked = _session(bench)
                low, high = (low, middle) if worked else (middle, high)
    return high, loaded_kib, chip_kib


def smallest():
    """heap_min_kib; the heap that plain files need is told beside it."""
    machine, reason = vm.small()
    if machine is None:
        print("heap_min_kib is not measured: %s" % reason)
        return
    _pack()
    high, loaded_kib, chip_kib = _search(machine, _IMAGE)
    plain = _search(machine, _FILES)
    yield ("heap_min_kib", round(high - loaded_kib - chip_kib, 1),
           "a heap of %d KiB, less %.1f that firmware and host board take once imported from a "
           "ROMFS and %.1f of an emulated chip; from plain files %d less %.1f and %.1f; on %s"
           % (high, loaded_kib, chip_kib, *plain, machine))
