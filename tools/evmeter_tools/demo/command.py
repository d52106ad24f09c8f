"""`evmeter demo` and `evmeter bench-rig`."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.bench.stand import Bench
from evmeter_tools.bench.view import View
from evmeter_tools.demo import run
from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD

_Folder = Annotated[Path | None, typer.Option("--dir", help="Run folder; emptied first")]


def demo(folder: _Folder = None):
    """Two charging sessions, one broken by a power cut, from the pilot to the verified receipt.

    Exit code 0 only if every record verifies and the energy agrees with the meter to the mWh.

    Example: evmeter demo --dir build/demo
    """
    raise typer.Exit(run.demo(folder))


def bench_rig(
    meter: Annotated[
        str | None, typer.Option(help="Serial port of a real meter; default: an emulated one")
    ] = None,
    baud: Annotated[int, typer.Option(help="Line speed of the meter")] = 9600,
    folder: _Folder = None,
    seconds: Annotated[int, typer.Option(help="End after so long; 0: at Ctrl-C")] = 0,
    pilot: Annotated[str, typer.Option(help="Pilot state of the emulated vehicle, A to F")] = "A",
):
    """Run the whole bench until Ctrl-C: device, meter, vehicle, broker, collector.

    Example: evmeter bench-rig --meter /dev/ttyUSB0 --baud 2400 --pilot C
    """
    if meter and not os.path.exists(meter):
        raise UserError("the port %s does not exist; look with 'ls /dev/tty*'" % meter)
    if pilot not in ("A", "B", "C", "D", "E", "F"):
        raise UserError("--pilot %s: allowed: A, B, C, D, E, F" % pilot)
    folder = run.empty(folder or BUILD / "bench-rig")
    with Bench(folder, "bench-0001", meter=meter, baud=baud) as bench:
        for notice in bench.notices:
            print(notice)
        title = "evmeter bench: %s" % (meter or "emulated SDM120")
        with View(bench.watch, title) as view:
            bench.device.start()
            bench.rig.tell(pilot=pilot)
            view.note("runs until Ctrl-C; everything lies in %s" % bench.folder)
            _watch(bench, view, seconds)


def _watch(bench, view, seconds):
    end = time.monotonic() + seconds if seconds else None
    try:
        while end is None or time.monotonic() < end:
            view.refresh()
            bench.check()
            time.sleep(0.25)
    except KeyboardInterrupt:
        view.note("ended by Ctrl-C")
