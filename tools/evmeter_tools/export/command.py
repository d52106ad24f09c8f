"""`evmeter export ...`: research data, Prometheus metrics, the NEVI quarterly set."""

from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.billing.party import read_operator
from evmeter_tools.errors import UserError
from evmeter_tools.export import research as pseudonymous
from evmeter_tools.export.nevi import nevi as nevi_tables
from evmeter_tools.insight.facts import load
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.options import (
    DEFAULT_DB,
    Database,
    FromDay,
    ToDay,
    ZoneName,
    open_store,
    period_ms,
)
from evmeter_tools.insight.uptime import read_outages

_Out = Annotated[Path, typer.Option("--out", help="Folder to write into; it is made")]
_OperatorFile = Annotated[Path | None, typer.Option(
    "--operator", help="Operator's file, for sites and rated power")]


def _load(db):
    store = open_store(db)
    facts = load(store, records=False)
    quarantined = [row.device for row in store.quarantined()]
    store.close()
    if not facts:
        raise UserError("no device is enrolled in %s" % db)
    return facts, quarantined


def _sites(operator, facts):
    if not operator:
        return {}, {}
    known = read_operator(operator)
    return ({device: known.place(device)["site"] for device in facts if device in known.places},
            known.rated_mw())


def research(
    key: Annotated[Path, typer.Option("--key", help="File of the key for pseudonyms")],
    out: _Out = Path("build/research"),
    db: Database = DEFAULT_DB,
    first: FromDay = None,
    last: ToDay = None,
    zone: ZoneName = "UTC",
    operator: _OperatorFile = None,
    round_s: Annotated[int, typer.Option(min=1, help="Times are rounded down to so much")]
    = pseudonymous.ROUND_S,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key first")] = False,
):
    """Write sessions and load profile under pseudonyms, as CSV and Parquet, with a dictionary.

    The key stays outside of the folder: who has it can tell whose sessions they are.

    Example: evmeter export research --key research.key --out build/research
    """
    if out.resolve() in key.resolve().parents:
        raise UserError("--key %s lies in the folder that is given away" % key)
    if new_key:
        pseudonymous.new_key(key)
    secret = pseudonymous.read_key(key)
    facts, _ = _load(db)
    sites, rated_mw = _sites(operator, facts)
    period = period_ms(LocalTime(zone), first, last)
    tables = [pseudonymous.sessions(facts, secret, *period, sites, rated_mw, round_s),
              pseudonymous.intervals(facts, secret, *period)]
    pseudonymous.write(tables, out)
    print("%d sessions and %d intervals written to %s"
          % (len(tables[0].rows), len(tables[1].rows), out))


def metrics(
    db: Database = DEFAULT_DB,
):
    """Print what the records tell as Prometheus metrics.

    Example: evmeter export metrics --db build/backend/evmeter.sqlite > evmeter.prom
    """
    from evmeter_tools.export.metrics import text, values_of

    print(text(values_of(*_load(db))).decode(), end="")


def nevi(
    quarter: Annotated[str, typer.Argument(help="As 2026Q3")],
    out: _Out = Path("build/nevi"),
    db: Database = DEFAULT_DB,
    zone: ZoneName = "UTC",
    operator: _OperatorFile = None,
    outages: Annotated[Path | None, typer.Option(
        help="CSV of outages: device, start_s, stop_s, cause, excluded")] = None,
):
    """Write the quarterly set of 23 CFR 680.112(a): sessions, uptime, outages, as CSV.

    Example: evmeter export nevi 2026Q3 --zone America/New_York --out build/nevi
    """
    facts, _ = _load(db)
    sites, _ = _sites(operator, facts)
    tables = nevi_tables(facts, quarter, LocalTime(zone),
                         read_outages(outages) if outages else [], sites)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for table in tables:
            (out / (table.name + ".csv")).write_text(table.csv(), encoding="utf-8")
    except OSError as error:
        raise UserError("--out %s: %s" % (out, error.strerror)) from None
    print("%s: %s" % (out, ", ".join("%d %s" % (len(table.rows), table.name)
                                     for table in tables)))
