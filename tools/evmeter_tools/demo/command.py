"""`evmeter demo` and `evmeter bench-rig`."""

import contextlib
import os
import queue
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.bench.rig_client import setting
from evmeter_tools.bench.stand import Bench
from evmeter_tools.bench.view import View
from evmeter_tools.bench.waveform import FRONT_ENDS
from evmeter_tools.demo import run
from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD
from evmeter_tools.run_folder import empty

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
    front_end: Annotated[str, typer.Option(help="Of the pilot: fe1, fe2 or fe3")] = "fe3",
    pulses: Annotated[
        int, typer.Option(min=0, max=100000, help="S0 output beside Modbus, imp/kWh; 0: none")
    ] = 0,
    pulse_meter: Annotated[
        bool, typer.Option("--pulse-meter", help="Read the pulses in place of Modbus")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A command to the rig; repeatable"),
    ] = None,
):
    """Run the whole bench until Ctrl-C: device, meter, vehicle, broker, collector.

    Lines of NAME=VALUE on standard input are commands to the rig while it runs: pilot, offered_ma,
    load_w, latency_ms, and what can go wrong with the pilot (low_mv, noise_mv, ramp_ms, cp=short,
    cp=cut, diode=false, duty_percent=5 ...) or with the pulses (pulse_bounces,
    pulse_double_every ...). A wrong name lists them all.

    Example: evmeter bench-rig --pilot C --set low_mv=-10700 --set noise_mv=15
    """
    if meter and not os.path.exists(meter):
        raise UserError("the port %s does not exist; look with 'ls /dev/tty*'" % meter)
    if pilot not in ("A", "B", "C", "D", "E", "F"):
        raise UserError("--pilot %s: allowed: A, B, C, D, E, F" % pilot)
    if front_end not in FRONT_ENDS:
        raise UserError("--front-end %s: allowed: %s" % (front_end, ", ".join(FRONT_ENDS)))
    if pulse_meter and not pulses:
        raise UserError("--pulse-meter needs --pulses, e.g. --pulses 1000")
    options = []
    for text in settings or ():
        setting(text)
        options += ["--set", text]
    folder = empty(folder or BUILD / "bench-rig")
    with Bench(folder, "bench-0001", meter=meter, baud=baud, front_end=front_end,
               pulses=pulses, pulse_meter=pulse_meter, rig_options=options) as bench:
        for notice in bench.notices:
            print(notice)
        title = "evmeter bench: %s" % (
            "S0, %d imp/kWh" % pulses if pulse_meter else meter or "emulated SDM120")
        with View(bench.watch, title) as view:
            bench.device.start()
            bench.rig.tell(pilot=pilot)
            view.note("runs until Ctrl-C; everything lies in %s" % bench.folder)
            _watch(bench, view, seconds)


def _typed(lines):
    """Thread: the lines of standard input, until it ends; unbuffered, so that it can be left
    behind."""
    with (contextlib.suppress(OSError),
          open(0, "rb", buffering=0, closefd=False) as typed):
        for line in typed:
            lines.put(line.decode(errors="replace"))


def _obey(bench, view, line):
    try:
        command = dict(setting(text) for text in line.split())
    except UserError as error:
        view.note("refused: %s" % error)
        return
    if command:
        bench.rig.tell(**command)


def _watch(bench, view, seconds):
    end = time.monotonic() + seconds if seconds else None
    lines = queue.SimpleQueue()
    threading.Thread(target=_typed, args=(lines,), daemon=True).start()
    try:
        while end is None or time.monotonic() < end:
            view.refresh()
            bench.check()
            while not lines.empty():
                _obey(bench, view, lines.get())
            while bench.rig.refused:
                view.note("refused: %s" % bench.rig.refused.pop(0))
            time.sleep(0.25)
    except KeyboardInterrupt:
        view.note("ended by Ctrl-C")
