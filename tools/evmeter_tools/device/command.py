"""`evmeter image`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.device import boards
from evmeter_tools.device import image as images
from evmeter_tools.paths import BUILD


def image(
    board: Annotated[str, typer.Option(help="The board, a folder of boards/")],
    out: Annotated[
        Path | None, typer.Option(help="The image [build/image/BOARD.romfs]")] = None,
    plain: Annotated[
        Path | None,
        typer.Option(help="Also a folder of .mpy files, for a MicroPython without VfsRom")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the sizes as JSON")] = False,
):
    """Compile what a board loads and pack it as a ROMFS for its partition romfs.

    Example: evmeter image --board esp32_devkit
    """
    target = boards.board(board)
    data, sizes = images.build(target, plain)
    out = out or BUILD / "image" / (board + ".romfs")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    if as_json:
        print(json.dumps({"image": str(out), "bytes": len(data), "slot": target.slot_bytes(),
                          "modules": sizes}))
        return
    print("%s: %d modules for %s, %d of %d bytes of a slot" % (
        out, len(sizes), target.arch, len(data), target.slot_bytes()))
