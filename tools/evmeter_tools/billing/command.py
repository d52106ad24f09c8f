"""`evmeter cdr ...`: charge detail records from the store, their corrections, gap energy."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.billing.cdr import Billing
from evmeter_tools.billing.folder import CdrFolder
from evmeter_tools.billing.gaps import CONFIRMED, WAIVED, GapFile, StoredGaps, gap_rows
from evmeter_tools.billing.party import read_operator
from evmeter_tools.billing.price import Held
from evmeter_tools.errors import UserError
from evmeter_tools.insight.facts import load
from evmeter_tools.insight.options import DEFAULT_DB, Database, open_store
from evmeter_tools.words import clean, kwh, wrap

_Operator = Annotated[Path, typer.Option(
    "--operator", help="JSON file: who bills, places, tariffs, tokens (billing/party.py)")]
_Folder = Annotated[Path, typer.Option("--out", help="Folder of the CDRs; it is made")]
_Decisions = Annotated[Path | None, typer.Option(
    help="File of the decisions on gap energy, in place of those in the database")]
_Gap = Annotated[str, typer.Option(
    help="Pending gap energy: leave_out bills the rest, hold waits for the decision")]
_Unsplit = Annotated[str, typer.Option(
    help="Energy that no tariff can be told for: hold, or cheapest")]
_Accept = Annotated[list[str] | None, typer.Option(
    help="Id of a suspicious session that you have looked at; repeatable")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]


def _sessions(store, device=None):
    facts = load(store, [device] if device else None)
    return [session for own in facts.values() for session in own.sessions]


def _decided(store, path):
    """The decisions on gap energy: those of a file where one is given, else the database's."""
    return GapFile(path) if path else StoredGaps(store)


def _one(store, db, sid):
    """The session of the charger that gives such ids: another's records may name it too."""
    for session in _sessions(store):
        if session.sid == sid and sid.rpartition("-")[0] == session.device:
            return session
    raise UserError("no session %s in %s" % (clean(sid)[:40], db))


def _decide(session, decided, decision, by):
    if not by:
        raise UserError("--by is missing: who decides?")
    if not session.ok or not session.gap_mwh:
        raise UserError("%s has no verified gap energy" % clean(session.sid)[:40])
    decided.write(session.device, session.sid, session.gap_mwh, decision, by, _now_ms() // 1000)


def _now_ms():
    return time.time_ns() // 1_000_000


def make(
    operator: _Operator,
    out: _Folder,
    db: Database = DEFAULT_DB,
    device: Annotated[str | None, typer.Option(help="Only this device")] = None,
    decisions: _Decisions = None,
    gap: _Gap = "leave_out",
    unsplit: _Unsplit = "hold",
    accept: _Accept = None,
    as_json: _Json = False,
):
    """Write an OCPI 2.2.1 CDR for each verified session that has none yet.

    What is held back is listed with its reason; a session that now says something else than its
    CDR is listed too, and left to `evmeter cdr correct`. No file is ever changed.

    Example: evmeter cdr make --operator operator.json --out cdrs
    """
    known = read_operator(operator)
    with closing(open_store(db)) as store:
        billing = Billing(known, _decided(store, decisions), gap, unsplit, accepted=accept or ())
        sessions = _sessions(store, device)
    folder = CdrFolder(out)
    found = {"made": [], "there": [], "differs": [], "credited": [], "held": []}
    for session in sessions:
        try:
            found[folder.put(billing, session, _now_ms())].append({"sid": session.sid})
        except Held as why:
            if session.state != "open":
                found["held"].append({"sid": session.sid, "why": str(why)})
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for row in found["held"]:
        print("\n".join(wrap("%s held: %s" % (row["sid"], row["why"]), "! ")))
    for row in found["differs"]:
        print("! %s differs from its CDR: evmeter cdr correct" % clean(row["sid"])[:40])
    for row in found["credited"]:
        print("! %s is credited and has no CDR: evmeter cdr correct makes one"
              % clean(row["sid"])[:40])
    print("%d CDRs written to %s, %d there already, %d held"
          % (len(found["made"]), out, len(found["there"]), len(found["held"])))


def correct(
    sid: Annotated[str, typer.Argument(help="The session's id")],
    operator: _Operator,
    out: _Folder,
    db: Database = DEFAULT_DB,
    decisions: _Decisions = None,
    gap: _Gap = "leave_out",
    unsplit: _Unsplit = "hold",
    accept: _Accept = None,
    replace: Annotated[bool, typer.Option(help="Write a new CDR beside the credit CDR")] = True,
):
    """Credit the CDR of a session, and write a new one; only that where it was credited already.

    Example: evmeter cdr correct demo-0001-000001 --operator operator.json --out cdrs
    """
    known = read_operator(operator)
    with closing(open_store(db)) as store:
        billing = Billing(known, _decided(store, decisions), gap, unsplit, accepted=accept or ())
        session = _one(store, db, sid)
    try:
        for path in CdrFolder(out).correct(billing, session, _now_ms(), replace):
            print(path)
    except Held as why:
        raise UserError("%s cannot be billed: %s; --no-replace only credits it"
                        % (clean(sid)[:40], why)) from None


def gaps(
    db: Database = DEFAULT_DB,
    decisions: _Decisions = None,
    confirm: Annotated[str | None, typer.Option(help="Bill that of this session")] = None,
    waive: Annotated[str | None, typer.Option(help="Never bill it")] = None,
    by: Annotated[str, typer.Option(help="Who decides")] = "",
    as_json: _Json = False,
):
    """List energy that flowed while a device was off, or decide on that of one session.

    Example: evmeter cdr gaps --confirm demo-0001-000003 --by "A. Operator"
    """
    with closing(open_store(db)) as store:
        decided = _decided(store, decisions)
        for sid, decision in ((confirm, CONFIRMED), (waive, WAIVED)):
            if sid:
                _decide(_one(store, db, sid), decided, decision, by)
        found = gap_rows(_sessions(store), decided)
    rows = [{"device": session.device, "sid": session.sid, "gap_mwh": session.gap_mwh,
             "energy_mwh": session.energy_mwh, "decision": decision}
            for session, decision in found]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print("%-28s %12s kWh of %12s kWh  %s" % (
            clean(row["sid"])[:28], kwh(row["gap_mwh"]),
            "-" if row["energy_mwh"] is None else kwh(row["energy_mwh"]), row["decision"]))
    if not rows:
        print("no gap energy in %s" % db)
