"""`evmeter backend sessions` and `export`: what is stored."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.backend.command import DEFAULT_DB, Database, open_store
from evmeter_tools.backend.sessions import (
    device_report,
    export_lines,
    missing_numbers,
    session_times,
)
from evmeter_tools.errors import UserError
from evmeter_tools.words import clean


def _utc(time):
    return time.astimezone(UTC).isoformat(timespec="milliseconds")


def _edge(reading, when):
    """A session's begin or end: the time that was signed, and the true one where a later entry of
    the device tells it; None where the reading lacks."""
    if reading is None:
        return None
    edge = {"signed": _utc(reading.time), "quality": reading.quality,
            "clock_set": "t" in str(reading.raw.get("EF", ""))}
    if when:
        edge["true"] = _utc(datetime.fromtimestamp(when.unix_ms / 1000, UTC))
        edge["true_quality"] = when.quality
        edge["uncertainty_ms"] = when.uncertainty_ms
        edge["told_by"] = when.told_by
    return edge


def _edge_line(name, edge):
    line = "  %-5s %s %s" % (name, edge["signed"][:19].replace("T", " "), edge["quality"])
    if "true" in edge:
        line += ", truly %s %s +-%.1f s" % (edge["true"][:19].replace("T", " "),
                                            edge["true_quality"], edge["uncertainty_ms"] / 1000)
    return line + (", the clock was set since the begin" if edge["clock_set"] else "")


def sessions(
    device: Annotated[str, typer.Argument(help="The device's id")],
    db: Database = DEFAULT_DB,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
):
    """Show a device's sessions with their verdicts.

    Times are UTC as they were signed, with the clock's quality (U: not known, I, S, R); where the
    device recorded before it knew the time, its later entry tells the true one beside it.

    Example: evmeter backend sessions demo-0001 --db build/demo/backend.sqlite
    """
    store = open_store(db)
    report = device_report(store, device)
    if not report.sessions:
        raise UserError("no session of %s in %s" % (device, db))
    times = session_times(store, device)
    rows = [
        {"sid": session.id, "state": session.state, "ok": session.ok,
         "energy_mwh": session.energy_mwh, "billable": session.billable,
         "reasons": session.reasons,
         "begin": _edge(session.begin, times.get(session.id, {}).get("begin")),
         "end": _edge(session.end, times.get(session.id, {}).get("complete"))}
        for session in report.sessions]
    if as_json:
        print(json.dumps({"sessions": rows, "missing": missing_numbers(store, device)}, indent=1))
        return
    for row in rows:
        print("%(sid)-28s %(state)-9s %(energy_mwh)12s mWh  %(verdict)s" % {
            **row, "sid": clean(row["sid"]),
            "verdict": "ok" if row["ok"] else clean("; ".join(row["reasons"])) or "refused"})
        for name in ("begin", "end"):
            if row[name]:
                print(_edge_line(name, row[name]))


def export(
    out: Annotated[Path | None, typer.Argument(
        help="File to write, one JSON object a line; printed where left out")] = None,
    db: Database = DEFAULT_DB,
    device: Annotated[str | None, typer.Option(help="Only this device")] = None,
):
    """Write every stored record with its public key, for `evmeter verify`.

    Example: evmeter backend export records.jsonl && evmeter verify records.jsonl
    """
    lines = list(export_lines(open_store(db), device))
    if not lines:
        raise UserError("nothing is stored in %s" % db)
    if out is None:
        print("\n".join(lines))
        return
    try:
        out.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise UserError("%s: %s" % (out, error.strerror)) from None
    print("%d records written to %s" % (len(lines), out))
