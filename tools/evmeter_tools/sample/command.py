"""`evmeter backend fill`: a database with plausible rows, to time pages on or to look at them."""

import time
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.sample import fill as filling

_TELL_S = 5


class Progress:
    """Prints how far a filling is, now and then."""

    def __init__(self):
        self._due_s = time.monotonic() + _TELL_S

    def __call__(self, what, done, of):
        if time.monotonic() > self._due_s:
            self._due_s = time.monotonic() + _TELL_S
            print("%s: %d of %d" % (what, done, of), flush=True)


def fill(
    out: Annotated[Path, typer.Argument(help="SQLite file to make")],
    devices: Annotated[int, typer.Option(min=1, help="How many chargers")] = 100,
    sessions: Annotated[int, typer.Option(min=0, help="How many sessions in all")] = 10_000,
    days: Annotated[int, typer.Option(min=1, help="Spread over so many days up to now")] = 365,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sessions")] = 1,
    signed: Annotated[bool, typer.Option(help="Records that verify; takes twice as long")] = False,
    records: Annotated[bool, typer.Option(help="Records and events beside the derived rows")]
    = True,
):
    """Make a database of sessions that never were, to try pages and reports on.

    Example: evmeter backend fill build/load.sqlite --devices 10000 --sessions 1000000
    """
    begun = time.monotonic()
    rows = filling.fill(out, devices, sessions, seed=seed, days=days, records=records,
                        signed=signed, tell=Progress())
    print("%d rows written to %s in %d s" % (rows, out, time.monotonic() - begun))
