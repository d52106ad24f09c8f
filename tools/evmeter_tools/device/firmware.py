"""MicroPython for a board, and all of it on the board: what is asked of other programs.

MicroPython's own images for the ESP32 leave VfsRom out (release notes of 1.25.0, discussion 19687
of its repository), and have another partition table: MicroPython is built with a few lines of its
board description that are ours. Or one of its own images gets our table, and our image is a file.
"""

import hashlib
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

from evmeter_tools.device import boards, image
from evmeter_tools.device.run import mpremote
from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD

_LEAST = (1, 25)
_BAUD = 460800
_HEADER = """\
#define MICROPY_HW_BOARD_NAME "evmeter %s"
#define MICROPY_HW_MCU_NAME "%s"
#define MICROPY_VFS_ROM (1)
#define MICROPY_PY_BLUETOOTH (0)
"""
_CMAKE = """\
set(IDF_TARGET %s)
set(SDKCONFIG_DEFAULTS boards/sdkconfig.base ${MICROPY_BOARD_DIR}/sdkconfig.board)
"""
_SDKCONFIG = """\
CONFIG_BT_ENABLED=n
CONFIG_ESPTOOLPY_FLASHSIZE_%dMB=y
CONFIG_PARTITION_TABLE_CUSTOM=y
CONFIG_PARTITION_TABLE_CUSTOM_FILENAME="%s"
"""
# drivers/rom_slots.py: an update may have been started from the second half, or the second file
_FIRST_IMAGE = """\
from esp32 import NVS
nvs = NVS("evmeter")
nvs.set_i32("slot", 0)
nvs.commit()
"""
# A firmware that was started in between has a watchdog, which bites while files are copied.
_WAIT = """\
from machine import WDT
WDT(timeout=600000)
"""
_NO_IMAGES = """\
import os, vfs
try:
    vfs.umount("/rom")
except OSError:
    print("no image is mounted")
for name in os.listdir("/"):
    if name.endswith(".romfs"):
        os.remove("/" + name)
"""
# ESP-IDF's gen_esp32part.py: a table of 32 bytes a partition, then their MD5
_TABLE = 0x8000
_TABLE_BYTES = 0xC00
_ENTRY = struct.Struct("<HBBII16sI")
_ENTRY_MAGIC = 0x50AA
_MD5 = b"\xeb\xeb" + b"\xff" * 14
_FLASH_SIZE = 3  # in the boot loader's header: 16 times the logarithm of MiB to base 2
_TYPES = {"app": 0, "data": 1}
_SUBTYPES = {"factory": 0, "ota_0": 0x10, "ota_1": 0x11, "ota": 0, "phy": 1, "nvs": 2, "fat": 0x81}


def table(partitions):
    """A partition table as the boot loader reads it."""
    entries = b"".join(
        _ENTRY.pack(_ENTRY_MAGIC, _TYPES[one.kind],
                    _SUBTYPES[one.subtype] if one.subtype in _SUBTYPES else int(one.subtype, 0),
                    one.offset, one.size, one.label.encode(), 0) for one in partitions)
    digest = hashlib.md5(entries, usedforsecurity=False).digest()
    return (entries + _MD5 + digest).ljust(_TABLE_BYTES, b"\xff")


def places(data):
    """{label: (offset, size)} of a partition table as the boot loader reads it."""
    found = {}
    for at in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        magic, _, _, offset, size, label, _ = _ENTRY.unpack_from(data, at)
        if magic != _ENTRY_MAGIC:
            break
        found[label.rstrip(b"\x00").decode("ascii", "replace")] = offset, size
    return found


def describe(board, folder):
    """Write MicroPython's description of the board into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    csv = folder / board.table.name
    shutil.copy(board.table, csv)
    (folder / "mpconfigboard.h").write_text(_HEADER % (board.name, board.chip.upper()))
    (folder / "mpconfigboard.cmake").write_text(_CMAKE % board.chip)
    (folder / "sdkconfig.board").write_text(_SDKCONFIG % (board.flash_mib, csv))
    (folder / "board.json").write_text(json.dumps({"mcu": board.chip}) + "\n")


def _port(micropython):
    """MicroPython's port for the ESP32. Raises UserError where it cannot be built."""
    port = Path(micropython or "") / "ports" / "esp32"
    needed = []
    if not micropython or not (port / "Makefile").is_file():
        needed.append("MicroPython's sources, %d.%d or newer (--micropython DIR)" % _LEAST)
    if not os.environ.get("IDF_PATH") or shutil.which("idf.py") is None:
        needed.append("the ESP-IDF that its ports/esp32/README.md names, with export.sh sourced")
    if needed:
        raise UserError("the firmware cannot be built; needed: " + "; ".join(needed))
    return port.resolve()


def build(board, micropython):
    """Build MicroPython for the board; returns its firmware.bin. Raises UserError."""
    port = _port(micropython)
    folder = (BUILD / "firmware" / board.name).resolve()
    describe(board, folder)
    done = subprocess.run(["make", "-C", str(port), "BOARD_DIR=%s" % folder,
                           "BOARD=EVMETER_" + board.name.upper(),
                           "BUILD=%s" % (folder / "build")], check=False)
    firmware = folder / "build" / "firmware.bin"
    if done.returncode or not firmware.is_file():
        raise UserError("MicroPython was not built; its own messages are above")
    return firmware


def pieces(board, firmware, image):
    """[(offset, bytes)] to be written: MicroPython's firmware.bin, one piece from boot loader to
    application, without what lies between its parts: the second store (key, counters) stays. The
    choice of a slot is blanked, so that what is written is what starts. `image` None: it becomes a
    file, and the table in firmware.bin is another one. Raises UserError."""
    partitions = board.partitions(plain=image is None)
    named = {one.label: one for one in partitions}
    app = next(one for one in partitions if one.kind == "app")
    head, body = firmware[:boards.FIRST - board.begin], firmware[app.offset - board.begin:]
    if not 0 < len(body) <= app.size:
        raise UserError("MicroPython's application takes %d bytes; allowed: 1 to %d"
                        % (len(body), app.size))
    at = _TABLE - board.begin
    if image is not None and places(head[at:]) != {
            one.label: (one.offset, one.size) for one in partitions}:
        raise UserError("MicroPython's image has another partition table than %s: give one that "
                        "'evmeter firmware' has built, or --plain" % board.table.name)
    if image is None:
        made_for = 1 << (firmware[_FLASH_SIZE] >> 4)
        if made_for < board.flash_mib:
            raise UserError("MicroPython's image is made for %d MiB of flash; allowed: %d or more"
                            % (made_for, board.flash_mib))
        head = head[:at] + table(partitions) + head[at + _TABLE_BYTES:]
    found = [(board.begin, head)]
    if "otadata" in named:
        found.append((named["otadata"].offset, b"\xff" * named["otadata"].size))
    found.append((app.offset, body))
    return found if image is None else [*found, (named["romfs"].offset, image)]


def _do(what, command, hint=""):
    print("%s:" % what, flush=True)
    try:
        done = subprocess.run(command, check=False)
    except FileNotFoundError:
        raise UserError("%s is missing: pip install esptool" % command[0]) from None
    if done.returncode:
        raise UserError("%s: failed; what the program said is above%s" % (what, hint))


def flash(board, port, firmware, config=None, plain=False):
    """Put MicroPython, the image, what starts it and perhaps a configuration on the board;
    journal, key and counters stay as they are. `plain`: the image is a file. Raises UserError."""
    for path in (firmware, config):
        if path and not path.is_file():
            raise UserError("%s is no file" % path)
    if config:
        try:
            json.loads(config.read_text())
        except ValueError as error:
            raise UserError("%s is not valid JSON: %s" % (config, error)) from None
    folder = BUILD / "image" / board.name
    files = folder / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    data, _ = image.build(board)
    written = []
    for offset, piece in pieces(board, firmware.read_bytes(), None if plain else data):
        path = folder / ("%x.bin" % offset)
        path.write_bytes(piece)
        written += ["0x%x" % offset, str(path)]
    _do("MicroPython", ["esptool", "--chip", board.chip, "--port", port, "--baud", str(_BAUD),
                        "write-flash", *written])
    image.boot_files(files, board.arch)
    if plain:
        (files / image.FIRST).write_bytes(data)
    # its file system is made at the first start
    _do("the file system", mpremote(port, "sleep", "5", "exec",
                                    _WAIT + (_NO_IMAGES if plain else "")),
        ". Where its prompt is closed, 'evmeter unlock' it, then flash it again")
    _do("evmeter" if plain else "what starts it",
        mpremote(port, "fs", "cp", *map(str, sorted(files.iterdir())), ":/"))
    _do("the first image", mpremote(port, "exec", _FIRST_IMAGE))
    if config:
        _do("configuration", mpremote(port, "fs", "cp", str(config), ":/config.json"))
    _do("start", mpremote(port, "reset"))
