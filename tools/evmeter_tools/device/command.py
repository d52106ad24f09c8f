"""`evmeter image`, `evmeter firmware`, `evmeter flash`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.device import boards, legal, run
from evmeter_tools.device import firmware as builds
from evmeter_tools.device import image as images
from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD


def image(
    board: Annotated[str, typer.Option(help="The board, a folder of boards/")],
    out: Annotated[
        Path | None, typer.Option(help="The image; else build/image/BOARD.romfs")] = None,
    plain: Annotated[
        Path | None,
        typer.Option(help="Also a folder of files, for a MicroPython without VfsRom")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the sizes as JSON")] = False,
):
    """Compile what a board loads and pack it as a ROMFS for its partition romfs.

    Example: evmeter image --board esp32_devkit
    """
    target = boards.board(board)
    data, sizes = images.build(target, plain)
    out = out or BUILD / "image" / (board + ".romfs")
    images.write(out, data)
    relevant = legal.digest(legal.files(data))
    if as_json:
        print(json.dumps({"image": str(out), "bytes": len(data), "slot": target.slot_bytes(),
                          "legal": relevant, "modules": sizes}))
        return
    print("%s: %d modules for %s, %d of %d bytes of a slot" % (
        out, len(sizes), target.arch, len(data), target.slot_bytes()))
    print("legally relevant part: SHA-256\n%s" % relevant)


def firmware(
    board: Annotated[str, typer.Option(help="The board, a folder of boards/")],
    micropython: Annotated[
        Path | None, typer.Option(help="Folder of MicroPython's sources, 1.25 or newer")] = None,
):
    """Build MicroPython for a board: with VfsRom, without Bluetooth, with evmeter's partitions.

    Needs MicroPython's sources and ESP-IDF; says so where they are missing.

    Example: evmeter firmware --board esp32_devkit --micropython ../micropython
    """
    print(builds.build(boards.board(board), micropython))


def flash(
    board: Annotated[str, typer.Option(help="The board, a folder of boards/")],
    port: Annotated[str, typer.Option(help="Serial port of the device")],
    firmware_bin: Annotated[
        Path | None,
        typer.Option("--firmware", help="MicroPython; else what evmeter firmware built")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration (JSON) to put on it too")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="evmeter as a file: for a MicroPython without VfsRom, "
                                           "with PSRAM; needs --firmware")] = False,
):
    """Put MicroPython and evmeter on a board; its journal, key and counters stay.

    Example: evmeter flash --board esp32_devkit --port /dev/ttyUSB0

    Example: evmeter flash --board esp32_devkit --port /dev/ttyUSB0 --plain \\
    --firmware ESP32_GENERIC-SPIRAM-20250415-v1.25.0.bin
    """
    target = boards.board(board)
    run.check(port)
    built = BUILD / "firmware" / board / "build" / "firmware.bin"
    if plain and not firmware_bin:
        raise UserError("--plain needs --firmware: an image of micropython.org, 1.24 or newer")
    if not firmware_bin and not built.is_file():
        raise UserError("MicroPython for %s is not built: 'evmeter firmware --board %s' does it, "
                        "or give one as --firmware" % (board, board))
    builds.flash(target, port, firmware_bin or built, config, plain)
