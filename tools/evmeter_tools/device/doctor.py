"""`evmeter doctor`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.device import run
from evmeter_tools.errors import UserError
from evmeter_tools.words import wrap

# main.py's names hold the firmware that was interrupted: two do not fit
_PROGRAM = "app = hardware = None\nfrom evmeter.system import doctor\ndoctor.main()\n"
_COLUMN = 15


def _findings(port, folder):
    """Yield each finding; raises UserError where the examination does not come to its end."""
    failed = None
    for found in run.objects(_PROGRAM, port=port or None, folder=folder):
        if "check" in found:
            yield found
        failed = found.get("failed", failed)
    if failed is None:
        raise UserError("the examination broke off; is the firmware on the device, and was the "
                        "device provisioned?")


def _line(found):
    mark = {"ok": "ok", "warn": "!", "fail": "FAIL"}[found["result"]]
    head = "%-4s  %s" % (mark, found["check"])
    text = list(wrap(found["text"], " " * (6 + _COLUMN))) or [""]
    text[0] = head.ljust(6 + _COLUMN) + text[0].strip()
    return "\n".join(text)


def doctor(
    port: Annotated[str | None, typer.Option(help="Serial port of the device")] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Run folder of the host board, in its place")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON")] = False,
):
    """Is the device well? Meter, pilot, clock, network, broker, journal, key, memory: one line
    each, ok or what to do.

    The firmware does not meter meanwhile; a device on a port is started again afterwards. Exit
    code 1 where something must be put right.

    Example: evmeter doctor --port /dev/ttyUSB0
    """
    if (not port) == (folder is None):
        raise UserError("give the device as --port or the host board's run folder as --dir")
    if port:
        run.check(port)
    found = []
    try:
        for one in _findings(port, folder):
            found.append(one)
            if not as_json:
                print(_line(one), flush=True)
    finally:
        if port:
            run.reset(port)
    failed = sum(one["result"] == "fail" for one in found)
    if as_json:
        json.dump({"failed": failed, "findings": found}, sys.stdout, indent=1)
        print()
    raise typer.Exit(1 if failed else 0)
