"""`evmeter backend ...`: run the collector, enrol a device, look at what is stored."""

import hashlib
import json
import logging
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.backend.broker import HOST, Broker
from evmeter_tools.backend.collector import Collector
from evmeter_tools.backend.sessions import (
    balance,
    device_report,
    export_lines,
    session_times,
)
from evmeter_tools.backend.store import Store
from evmeter_tools.errors import UserError
from evmeter_tools.verify.parse import KeyFormatError, parse_key

_Database = Annotated[str, typer.Option("--db", help="SQLite file or SQLAlchemy URL")]
_DEFAULT_DB = "build/backend/evmeter.sqlite"


def _open(db):
    if "://" not in db:
        Path(db).parent.mkdir(parents=True, exist_ok=True)
    return Store(db)


def run(
    db: _Database = _DEFAULT_DB,
    port: Annotated[int, typer.Option(help="Port of the broker that is started")] = 1883,
    broker: Annotated[
        str | None, typer.Option(help="host:port of a broker that runs already")] = None,
    folder: Annotated[
        Path, typer.Option("--dir", help="Where the broker keeps its files")
    ] = Path("build/backend"),
):
    """Collect, check, store and acknowledge until Ctrl-C.

    Example: evmeter backend run --db build/backend/evmeter.sqlite --port 1883
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    store = _open(db)
    own = None
    if broker:
        host, _, given = broker.rpartition(":")
        if not host or not given.isdigit():
            raise UserError("--broker %s: give it as host:port" % broker)
        port = int(given)
    else:
        host = HOST
        own = Broker(folder, port).start()
        if own.notice:
            print(own.notice)
    collector = Collector(store, host, port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        collector.start()
        print("collecting from %s:%d into %s; Ctrl-C ends it" % (host, port, db), flush=True)
        ended.wait()
        collector.stop()
    finally:
        if own:
            own.stop()
        store.close()
    print("%d messages stored" % collector.stored)


def key_id(spki):
    """The short name of a public key: 8 hex digits. Raises UserError where it is no key."""
    try:
        der = parse_key(spki)
    except KeyFormatError as error:
        raise UserError("the public key cannot be used: %s" % error) from None
    return hashlib.sha256(der).hexdigest()[:8]


def enrol(
    device: Annotated[str, typer.Argument(help="The device's id")],
    spki: Annotated[str, typer.Argument(help="Its public key: SubjectPublicKeyInfo in hex")],
    db: _Database = _DEFAULT_DB,
):
    """Trust a device's key. Messages under other keys are neither stored nor acknowledged.

    Example: evmeter backend enrol charger-17 3059301306072A86...
    """
    name = key_id(spki)
    _open(db).enrol(device, name, spki.lower())
    print("enrolled %s, key %s" % (device, name))


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
    db: _Database = _DEFAULT_DB,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
):
    """Show a device's sessions with their verdicts.

    Times are UTC as they were signed, with the clock's quality (U: not known, I, S, R); where the
    device recorded before it knew the time, its later entry tells the true one beside it.

    Example: evmeter backend sessions demo-0001 --db build/demo/backend.sqlite
    """
    store = _open(db)
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
        print(json.dumps({"sessions": rows, "missing": balance(store, device).missing}, indent=1))
        return
    for row in rows:
        print("%(sid)-28s %(state)-9s %(energy_mwh)12s mWh  %(verdict)s" % {
            **row, "verdict": "ok" if row["ok"] else "; ".join(row["reasons"]) or "refused"})
        for name in ("begin", "end"):
            if row[name]:
                print(_edge_line(name, row[name]))


def export(
    out: Annotated[Path, typer.Argument(help="File to write, one JSON object a line")],
    db: _Database = _DEFAULT_DB,
    device: Annotated[str | None, typer.Option(help="Only this device")] = None,
):
    """Write every stored record with its public key, for `evmeter verify`.

    Example: evmeter backend export records.jsonl && evmeter verify records.jsonl
    """
    lines = list(export_lines(_open(db), device))
    if not lines:
        raise UserError("nothing is stored in %s" % db)
    out.write_text("\n".join(lines) + "\n")
    print("%d records written to %s" % (len(lines), out))
