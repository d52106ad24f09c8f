"""A charging session out of its stored rows: what is signed first, then what events tell of it."""

import json
from itertools import pairwise

from evmeter_tools.insight.session import (
    FAULT,
    OFF,
    PHASES,
    UNKNOWN,
    ChargingSession,
    Phase,
    Stamp,
)
from evmeter_tools.verify.audit import check_entry
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.parse import parse_key
from evmeter_tools.verify.sessions import check_session
from evmeter_tools.words import clean, is_plain

MOST = 2**50  # mWh, mW, ms: no device has more


def charging_session(device, sid, rows, keys, times=None, alive_ms=None, until_ms=None,
                     before_key=None):
    """The ChargingSession of the stored rows (backend.store) that carry its id.

    keys      {key id: SPKI} that are trusted for the device
    times     {(key id, seq): TrueTime}, backend.sessions.device_times
    alive_ms  {(key id, seq of a boot event): when the device was last known to run}
    until_ms  now: up to when the phases of an open session go; None: up to its last event
    before_key  {DER of a key: that of the key before it}, verify.audit.check_entries
    """
    times, alive_ms = times or {}, alive_ms or {}
    session = ChargingSession(device, sid)
    messages = [(row, read_message(row)) for row in sorted(rows, key=lambda row: row.seq)]
    records = [(row, message) for row, message in messages if row.stream == "rec"]
    events = [(row, message) for row, message in messages
              if row.stream == "evt" and row.verdict == "ok"
              and 0 <= whole(message, "ts", -1) < 2**32]
    own = _own_records([row for row, _ in messages if row.stream == "log"], keys)
    verdict = _records(session, records, keys, times, own, before_key)
    _tell(session, [message for _, message in events])
    _bill(session, records, verdict)
    if session.start:
        _phases(session, events, times, alive_ms, until_ms)
    return session


def read_message(row):
    """A stored message as a dict; what the collector refused may be anything."""
    try:
        message = json.loads(row.payload)
    except ValueError:
        message = None
    return message if isinstance(message, dict) else {}


def is_whole(value):
    """Whether it is a whole number that a device can mean: sums of many still fit a column."""
    return type(value) is int and -MOST <= value <= MOST


def whole(message, name, default=None):
    """A field that must be such a whole number; `default` where it is none."""
    value = message.get(name)
    return value if is_whole(value) else default


def _stamp(reading, at):
    time = reading.time
    return Stamp(round(time.timestamp() * 1000), reading.quality, at)


def text_of(row):
    """A stored message's text, word for word."""
    return row.payload.decode("utf-8", "surrogateescape")


def _own_records(rows, keys):
    """What the meter has signed itself, out of sound audit entries."""
    entries = [check_entry(text_of(row), parse_key(keys[row.key_id]))
               for row in rows if row.key_id in keys]
    return [entry.own for entry in entries if entry.own and entry.ok]


def _records(session, records, keys, times, own, before_key):
    """Take what is signed; returns the verdict (verify.sessions.Session)."""
    checked = [(check_record(str(message.get("ocmf")), keys.get(row.key_id)), row)
               for row, message in records]
    verdict = check_session([record for record, _ in checked], session.sid, own, before_key)
    session.records = verdict.records
    told = [row.why for row, _ in records if row.verdict != "ok" and row.why]
    found = [text for record in verdict.records for text in record.reasons]
    # they may name what stands in a record, and that may be what no database takes
    session.reasons = tuple(dict.fromkeys(map(clean, [*verdict.reasons, *found, *told])))
    session.ok = verdict.ok and not told and bool(records)
    session.state = verdict.state if session.ok else "broken"
    made = {record.kind: row for record, row in checked}
    session.key_id = records[0][0].key_id if records else ""
    for name, kind, reading in (("start", "begin", verdict.begin),
                                ("stop", "complete", verdict.end)):
        if reading:
            row = made.get(kind)
            setattr(session, name, _stamp(reading, row and times.get((row.key_id, row.seq))))
    if session.ok:
        session.begin_mwh = verdict.begin.mwh
        if session.state == "complete":
            session.end_mwh = verdict.end.mwh
            session.energy_mwh = verdict.energy_mwh
            session.ended_by = verdict.end.tx
            readings = [verdict.begin, *verdict.changes, verdict.end]
            session.segments = [
                (round(before.time.timestamp() * 1000), after.mwh - before.mwh)
                for before, after in pairwise(readings)]
    return verdict


def _bill(session, records, verdict):
    """Say whether the signed records can be billed, and what stands against it."""
    complete = next((record for record in verdict.records if record.kind == "complete"), None)
    spokesman = complete or (verdict.records[0] if verdict.records else None)
    if spokesman and spokesman.get("IS") is True:
        session.user = {name: spokesman.get(name) for name in ("IT", "ID", "IL", "IF")}
    why = list(session.reasons)
    if not records:
        why.append("no record is stored")
    elif session.state == "open":
        why.append("not ended yet")
    if complete and session.ok:
        gap_mwh = complete.get("ZG")
        session.gap_mwh = gap_mwh if is_whole(gap_mwh) else 0
        if complete.get("ZB") == 0:
            why.append("marked not billable by the device")
        if "ZW" in complete.payload:
            session.split_ok = complete.get("ZW") == 1
    session.why_not = tuple(dict.fromkeys(why))
    session.billable = verdict.billable and not session.why_not


def _tell(session, messages):
    """Take what the events tell of tariff, duration and faults."""
    for message in messages:
        name = message.get("ev")
        if name in ("open", "close", "tariff") and is_plain(message.get("cur"), 3):
            session.currency = message["cur"]
            session.tariff_code = whole(message, "tc", session.tariff_code)
        if name == FAULT:
            session.faults += 1
        if name == "close":
            session.duration_s = whole(message, "dur_s")
            session.duration_pm_s = whole(message, "dur_pm_s", 0)
            session.cost_info = whole(message, "cost")
            by = message.get("by")
            session.by_tariff = {clean(name): by[name] for name in by
                                 if whole(by, name) is not None} if isinstance(by, dict) else {}


def _phases(session, events, times, alive_ms, until_ms):
    """Cut the session at what its events tell; a session that was cut off by a power failure was
    off from when the device was last known to run."""
    marks = []
    last_ms = session.start.best_ms
    for row, message in events:
        at = times.get((row.key_id, row.seq))
        at_ms = at.unix_ms if at else message["ts"] * 1000
        name = message.get("ev")
        if name == "boot":
            marks.append((alive_ms.get((row.key_id, row.seq), last_ms), OFF))
        elif name == "resume":
            off_ms = whole(message, "off_ms", -1)
            if off_ms >= 0 and marks and marks[-1][1] == OFF:
                marks[-1] = (max(marks[-1][0], at_ms - off_ms), OFF)
            marks.append((at_ms, UNKNOWN))
            session.gaps.append((at_ms, whole(message, "gap_mwh", 0)))
        elif name in PHASES:
            marks.append((at_ms, name))
        last_ms = max(last_ms, at_ms)
    start_ms = session.start.best_ms
    stop_ms = session.stop.best_ms if session.stop else until_ms or last_ms
    stop_ms = max(stop_ms, start_ms)
    name = UNKNOWN
    for told_ms, following in [*marks, (stop_ms, UNKNOWN)]:
        at_ms = min(max(told_ms, start_ms), stop_ms)
        if at_ms > start_ms:
            before = session.phases[-1] if session.phases else None
            if before and before.name == name:
                session.phases[-1] = Phase(name, before.start_ms, at_ms)
            else:
                session.phases.append(Phase(name, start_ms, at_ms))
            start_ms = at_ms
        name = following
