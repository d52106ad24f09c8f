"""`evmeter report`: use, demand, stations, up-time and records, as text, CSV or JSON."""

import json
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.billing.party import read_operator
from evmeter_tools.errors import UserError
from evmeter_tools.insight.facts import load
from evmeter_tools.insight.local import WEEKDAYS, LocalTime
from evmeter_tools.insight.options import (
    DEFAULT_DB,
    Database,
    FromDay,
    ToDay,
    ZoneName,
    open_store,
    period_ms,
)
from evmeter_tools.insight.reports import REPORTS, View, report
from evmeter_tools.insight.uptime import read_outages
from evmeter_tools.insight.use import matrix
from evmeter_tools.words import wrap

_SHADES = " .:-=+*#%@"


def view_of(facts, zone_name, first, last, operator=None, rated_w=0, outages=None):
    """The View that the options of a command ask for. Raises UserError."""
    zone = LocalTime(zone_name)
    rated_mw = dict.fromkeys(facts, rated_w * 1000)
    if operator:
        rated_mw.update((device, mw) for device, mw in read_operator(operator).rated_mw().items()
                        if device in facts)
    return View(zone, *period_ms(zone, first, last), rated_mw,
                read_outages(outages) if outages else [])


def _map_lines(table):
    """A heat map for a terminal: a shade for each hour, the day's sum behind it."""
    counts = matrix(table)
    most = max(map(max, counts)) or 1
    yield "     " + "".join("%-3d" % hour for hour in range(24))
    for name, row in zip(WEEKDAYS, counts, strict=True):
        shades = "".join(_SHADES[-(-count * (len(_SHADES) - 1) // most)] * 2 + " "
                         for count in row)
        yield "%s  %s%d" % (name, shades, sum(row))


def show(
    name: Annotated[str, typer.Argument(
        metavar="NAME", help="all, or one of: " + ", ".join(REPORTS))],
    db: Database = DEFAULT_DB,
    first: FromDay = None,
    last: ToDay = None,
    zone: ZoneName = "UTC",
    device: Annotated[list[str] | None, typer.Option(help="Only this device; repeatable")] = None,
    operator: Annotated[Path | None, typer.Option(
        help="Operator's file, for the rated power of each place")] = None,
    rated_w: Annotated[int, typer.Option(help="Rated power of a place that is not in it")] = 0,
    outages: Annotated[Path | None, typer.Option(
        help="CSV of outages: device, start_s, stop_s, cause, excluded")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for NAME.csv; all needs it")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
):
    """Show what the stored records say of use, demand, stations, up-time and completeness.

    Energies are whole mWh, shares thousandths. An empty value is one that is not known.

    Example: evmeter report demand --from 2026-09-01 --zone Europe/Berlin
    """
    if name == "all" and not out:
        raise UserError("all needs --out, a folder for the CSV files")
    store = open_store(db)
    period = period_ms(LocalTime(zone), first, last)
    facts = load(store, device or None, records=False, period_ms=period)
    store.close()
    if not facts:
        raise UserError("no device is enrolled in %s" % db)
    view = view_of(facts, zone, first, last, operator, rated_w, outages)
    tables = [report(each, facts, view) for each in (REPORTS if name == "all" else [name])]
    if out:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for table in tables:
                (out / (table.name + ".csv")).write_text(table.csv(), encoding="utf-8")
        except OSError as error:
            raise UserError("--out %s: %s" % (out, error.strerror)) from None
        print("%d tables written to %s" % (len(tables), out))
        return
    table = tables[0]
    if as_csv:
        print(table.csv(), end="")
    elif as_json:
        print(json.dumps(table.json(), indent=1))
    else:
        print(table.title)
        print("\n".join(_map_lines(table) if table.name == "starts" else table.lines()))
        for note in table.notes:
            print("\n".join(wrap(note, "- ")))
