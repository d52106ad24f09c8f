"""Size: bytecode of the modules that a device loads, and the heap that they take."""

import json
import shutil
from pathlib import Path

from evmeter_tools.device import boards, image
from evmeter_tools.measure import vm
from evmeter_tools.paths import BUILD, FIRMWARE

_FOLDER = BUILD / "measure-mpy"
_IMAGE = BUILD / "measure.romfs"
_SIZES = BUILD / "sizes.json"
# their memory is given back
_AT_START = ("main", "evmeter.assembly", "drivers.meter_profile", "evmeter.ledger.ring_scan")
_LARGEST = 5  # modules that are named
# What a change may not pass unseen: DESIGN.md's 42 KiB of bytecode are not reached.
MOST_KIB = 107
MOST_MODULE_BYTES = 7168
# what a verified broker known by its name, and time servers, need besides
_ONLINE = ("evmeter.uplink.tls", "evmeter.uplink.resolver", "evmeter.system.sntp",
           "evmeter.system.timekeeper")


def _compiled(files, arch):
    """{module: bytes of bytecode} for one chip, left in a folder of its own."""
    folder = _FOLDER / arch
    sizes = image.compile_all(files, folder, arch)
    return {name.replace("/", ".").removesuffix(".__init__"): size
            for name, size in sizes.items()}


def _board():
    """The board with the most bytecode, or None where there is none."""
    def weight(name):
        files = boards.board(name).folder.glob("*.py")
        return sum(path.stat().st_size for path in files)

    names = boards.names()
    return boards.board(max(names, key=weight)) if names else None


def bytecode():
    """({chip: {module: bytes} of what is loaded}, bytes of the largest meter profile, the board):
    what MicroPython has loaded after the imports of a device on Modbus and Wi-Fi, with main.py and
    the largest board. The files are left in build/measure-mpy, all sizes in build/sizes.json."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
    board = _board()
    files = [*image.sources(), (FIRMWARE / "main.py", Path("main.py"))]
    if board:
        files += image.board_sources(board)
    sizes = {arch: _compiled(files, arch) for arch in ("xtensawin", "rv32imc")}
    _SIZES.write_text(json.dumps(sizes, indent=1, sort_keys=True) + "\n")
    folder = _FOLDER / "xtensawin"
    names = {*vm.host().run("loaded.py", str(int(bool(board))), str(folder))["modules"],
             *_AT_START}
    profile = max(path.stat().st_size for path in (folder / image.PROFILES).glob("*.json"))
    return {arch: {name: one[name] for name in one if name in names}
            for arch, one in sizes.items()}, profile, board


def loaded(machine=None):
    """mpy_total_kib and loaded_ram_kib; the latter on `machine`, a 32-bit MicroPython, which is
    fetched where there is none."""
    machine = machine or vm.small()[0]
    used, profile, board = bytecode()
    total = {arch: round((sum(one.values()) + profile) / 1024, 2) for arch, one in used.items()}
    largest = sorted(used["xtensawin"].items(), key=lambda one: -one[1])[:_LARGEST]
    yield ("mpy_total_kib", total["xtensawin"],
           "%d modules, board %s; mpy-cross -march=xtensawin -O3; for rv32imc %g; each module: "
           "build/%s; largest: %s"
           % (len(used["xtensawin"]), board.name if board else "none yet", total["rv32imc"],
              _SIZES.name, ", ".join("%s %d" % one for one in largest)))
    if machine is None:
        return
    folder, with_board = _FOLDER / "xtensawin", str(int(bool(board)))
    (folder / "main.mpy").unlink()
    _IMAGE.write_bytes(image.romfs(folder))
    mapped = machine.run("loaded.py", with_board, str(_IMAGE))["bytes"]
    plain = machine.run("loaded.py", with_board, str(folder))["bytes"]
    online = machine.run("loaded.py", with_board, str(_IMAGE), *_ONLINE)["bytes"]
    yield ("loaded_ram_kib", round(mapped / 1024, 1),
           "heap after the import from a ROMFS; with TLS, names and time servers %.1f; from plain "
           ".mpy files %.1f; on %s" % (online / 1024, plain / 1024, machine))
