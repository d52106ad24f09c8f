"""The command: options, progress, report."""

import json
import os
import sys
import textwrap
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from evmeter_tools import firmware
from evmeter_tools.errors import UserError
from evmeter_tools.paths import ROOT
from evmeter_tools.scan.line import Master, Search, meter_on, open_port
from evmeter_tools.scan.rules import (
    BAUDS,
    CONFIDENCE_POINTS,
    PARITIES,
    UNITS,
    Line,
    candidates,
    within,
)

_WIDTH = 80
_P_MAX_W = {1: 7400, 3: 22000}


class Show:
    """Progress: a bar on a terminal, a line for each line setting elsewhere."""

    def __init__(self, tries, quiet=False, console=None):
        self._console = console or Console(width=_WIDTH, highlight=False)
        self._quiet = quiet
        self._line = None
        self._done = 0
        self._tries = tries
        self._bar = self._task = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description:<26}"), BarColumn(30),
                TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
                console=self._console, transient=True)
            self._task = self._bar.add_task("", total=len(tries))

    def __enter__(self):
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def trying(self, one):
        """The next request is `one`."""
        if self._bar:
            self._bar.update(self._task, completed=self._done,
                             description="%s unit %d" % (one.line, one.unit))
        elif one.line != self._line and not self._quiet:
            self._console.print("%3d of %d: %s, from unit %d"
                                % (self._done + 1, len(self._tries), one.line, one.unit))
        self._line = one.line
        self._done += 1

    def comparing(self, model):
        """What answers is read as a `model`."""
        if self._bar:
            self._bar.update(self._task, description=model)

    def say(self, text):
        """One line."""
        if not self._quiet:
            self._console.print(text)


def load_profiles():
    """{name: profile as in its file}, those of the greatest confidence first. Raises UserError
    for one that cannot be taken."""
    profiles = {}
    for path in sorted((ROOT / "drivers" / "meter_profiles").glob("*.json")):
        try:
            profiles[path.stem] = json.loads(path.read_text())
            meter_on(Master(None, Line(BAUDS[0], "N", 1)), profiles[path.stem], 1)
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise UserError("meter profile %s: %s" % (path.stem, error)) from None
    return dict(sorted(profiles.items(),
                       key=lambda one: (-CONFIDENCE_POINTS[one[1]["confidence"]], one[0])))


def snippet(found, profile):
    """The `meter` object for the configuration."""
    meter = {"profile": found.fits[0], "unit": found.unit, "baud": found.line.baud,
             "parity": found.line.parity, "stop": found.line.stop,
             "p_max_w": _P_MAX_W[profile["phases"]]}
    if not found.identity[0]:
        meter["serial"] = "<the number on the label>"
    return meter


def _decimal(number, digits, unit):
    if number is None:
        return None
    scale = 10**digits
    return "%s%d.%0*d %s" % ("-" if number < 0 else "", abs(number) // scale, digits,
                             abs(number) % scale, unit)


def _rows(found, profile):
    """(what, text) of what was read."""
    reading = found.reading
    rows = [("model", "%s %s" % (profile["make"], profile["model"]))]
    rows += [("serial number", found.identity[0]), ("meter code", found.identity[1]),
             ("firmware", found.identity[2])]
    for phase in range(len(reading.voltages_mv)):
        rows.append(("voltage L%d" % (phase + 1), _decimal(reading.voltages_mv[phase], 3, "V")))
        rows.append(("current L%d" % (phase + 1), _decimal(reading.currents_ma[phase], 3, "A")))
    rows += [("power", _decimal(reading.power_mw, 3, "W")),
             ("frequency", _decimal(reading.frequency_mhz, 3, "Hz")),
             ("import", _decimal(reading.import_mwh, 6, "kWh")),
             ("export", _decimal(reading.export_mwh, 6, "kWh"))]
    return [(what, text) for what, text in rows if text is not None]


def _as_json(port, found, profiles, search, seconds):
    body = {"port": port, "found": bool(found), "tried": search.tried,
            "duration_ms": round(seconds * 1000),
            "noise": [str(line) for line in search.noise]}
    if found:
        body.update(unit=found.unit, baud=found.line.baud, parity=found.line.parity,
                    stop=found.line.stop, fits=list(found.fits), why=list(found.why))
    if found and found.fits:
        reading = found.reading
        body.update(
            serial=found.identity[0], code=found.identity[1], firmware=found.identity[2],
            reading={name: getattr(reading, name) for name in (
                "voltages_mv", "currents_ma", "power_mw", "frequency_mhz", "import_mwh",
                "export_mwh")},
            config={"meter": snippet(found, profiles[found.fits[0]])})
    return json.dumps(body)


def _report(found, profiles):
    best = found.fits[0]
    profile = profiles[best]
    print("\n%s, unit %d, by %s" % (found.line, found.unit, ", ".join(found.why)))
    for what, text in _rows(found, profile):
        print("  %-14s %s" % (what, text))
    if len(found.fits) > 1:
        print("Also fits: %s. Compare with the label." % ", ".join(found.fits[1:]))
    if profile["confidence"] != "high":
        print("The register map is of %s confidence: compare with the display."
              % profile["confidence"])
    if profile.get("note"):
        print(textwrap.fill("Note: " + profile["note"], _WIDTH))
    if "import" not in profile["billing"]:
        print("It has no import register. Where nothing can be exported, add\n"
              '"total_is_import": true; else it cannot be billed.')
    print("\nFor config.json (p_max_w: the most that the installation can draw):")
    print('"meter": %s' % json.dumps(snippet(found, profile), indent=1))


def _nobody(port, search, seconds):
    text = "no meter answers on %s: %d requests in %.0f s" % (port, search.tried, seconds)
    if search.noise:
        return UserError("%s; there was noise at %s: check A and B, the termination, other masters"
                         % (text, ", ".join(map(str, search.noise[:3]))))
    return UserError(text + "; check A and B, the meter's supply, its Modbus menu; or give --unit")


def scan(
    port: Annotated[str, typer.Option(help="Serial port, such as a USB-RS485 stick")],
    baud: Annotated[int | None, typer.Option(help="Try only this speed")] = None,
    parity: Annotated[str | None, typer.Option(help="Try only N, E or O")] = None,
    unit: Annotated[
        int | None, typer.Option(min=1, max=UNITS, help="Try only this Modbus unit")
    ] = None,
    seconds: Annotated[
        int, typer.Option(min=1, max=3600, help="Search no longer than this")] = 120,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, no progress")] = False,
):
    """Find the meter on a serial port: speed, parity, unit and model; print what it reads and the
    configuration for it. Only reads.

    Example: evmeter scan --port /dev/ttyUSB0
    """
    if not os.path.exists(port):
        raise UserError("the port %s does not exist; look with 'ls /dev/tty*'" % port)
    if baud is not None and baud not in BAUDS:
        raise UserError("--baud %d: allowed: %s" % (baud, ", ".join(map(str, sorted(BAUDS)))))
    if parity is not None and parity not in PARITIES:
        raise UserError("--parity %s: allowed: %s" % (parity, ", ".join(PARITIES)))
    run(port, baud, parity, unit, seconds, as_json)


def run(port, baud=None, parity=None, unit=None, seconds=120, as_json=False, opened=open_port):
    """The command after its options were checked; `opened` replaces `open_port`. Returns the
    configuration's section `meter`. Raises UserError where nothing was found, or nothing that a
    profile fits."""
    firmware.reach()
    profiles = load_profiles()
    all_tries = candidates(profiles, (baud,) if baud else BAUDS,
                           (parity,) if parity else PARITIES, (unit,) if unit else None)
    tries = within(all_tries, seconds)
    begun = time.monotonic()
    with Show(tries, as_json) as show:
        show.say("%s: %d of %d combinations, at most %.0f s"
                 % (port, len(tries), len(all_tries), sum(one.cost_s for one in tries)))
        search = Search(port, profiles, tries, show, opened)
        found = search.run()
    passed_s = time.monotonic() - begun
    if as_json:
        print(_as_json(port, found, profiles, search, passed_s))
    if not found:
        raise _nobody(port, search, passed_s)
    if not found.fits:
        raise UserError("unit %d answers at %s, but reads like none of the %d meter profiles; "
                        "give the meter a profile of its own"
                        % (found.unit, found.line, len(profiles)))
    if not as_json:
        _report(found, profiles)
        sys.stdout.flush()
    return snippet(found, profiles[found.fits[0]])
