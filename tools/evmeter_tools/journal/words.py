"""What a journal's entries and faults say, for people and for programs."""

import json
from datetime import UTC, datetime

from evmeter_tools.words import clean, kwh, wrap

_COMMON = ("v", "ts", "tq", "k", "seq", "sid", "ev", "ocmf", "kind")
_ROW = "%6d %-4.4s %-19s %s %-7.7s "
_HEAD = "   seq type time UTC            q session what"
_INDENT = " " * 42


def _time(message):
    seconds = message.get("ts")
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "%d" % seconds


def _session(message):
    """The last part of a session's id: the whole one does not fit a column."""
    sid = message.get("sid")
    return sid.rsplit("-", 1)[-1] if isinstance(sid, str) and sid else "-"


def _value(name, value):
    if isinstance(value, int) and name.endswith("_mwh"):
        return "%s %s kWh" % (name.removesuffix("_mwh"), kwh(value))
    if isinstance(value, (dict, list)):
        value = json.dumps(value)
    return "%s %s" % (name, value)


def _rest(message, without=()):
    return ", ".join(_value(name, value) for name, value in message.items()
                     if name not in _COMMON and name not in without)


def _record(message):
    text = message.get("ocmf")
    words = "%s record" % message.get("kind")
    try:
        payload = json.loads(text.split("|")[1], parse_float=str)  # digits as they stand
        readings = payload["RD"]
        words += " %s" % payload["PG"]
        words += ", " + ", ".join("%s %s %s" % (reading["TX"], reading["RV"], reading["RU"])
                                  for reading in readings)
        if payload.get("ZB") == 0:
            words += ", not billable"
    except (AttributeError, ValueError, IndexError, KeyError, TypeError, RecursionError):
        words += ", no OCMF that can be read"
    extra = _rest({name: message[name] for name in ("out_mwh", "gap_mwh", "jump_mwh")
                   if message.get(name)})
    return words + (", " + extra if extra else "")


def _interval(message):
    try:
        return "%d s: %s kWh from %s, highest power %d W" % (
            message["len"], kwh(message["d_mwh"]), kwh(message["e_mwh"]),
            message["p_max_mw"] // 1000)
    except (KeyError, TypeError):
        return _rest(message)


def says(entry):
    """What an entry says, in one line of any length."""
    message = entry.message
    if message is None:
        return "%d bytes that are no JSON object" % len(entry.payload)
    if entry.kind == "rec":
        return _record(message)
    if entry.kind == "ivl":
        return _interval(message)
    name = message.get("ev")
    rest = _rest(message)
    return ": ".join(part for part in (str(name) if name is not None else "", rest) if part)


def place(fault):
    """Where a fault lies: file and offset, as far as known."""
    if fault.file is None:
        return ""
    return fault.file if fault.offset is None else "%s at byte %d" % (fault.file, fault.offset)


def fault_text(fault):
    """A fault in one line."""
    parts = [part for part in (
        place(fault), "" if fault.seq is None else "frame %d" % fault.seq) if part]
    text = ": ".join([", ".join(parts), fault.what] if parts else [fault.what])
    if fault.expected is not None:
        text += " (expected %s, found %s)" % (fault.expected, fault.found)
    return text


def table(report, entries):
    """Yield the lines of the entries, at most 80 columns wide."""
    yield _HEAD
    for entry in entries:
        message = entry.message or {}
        row = _ROW % (entry.seq, entry.kind, _time(message),
                      clean(message.get("tq") or "-")[:1], clean(_session(message)))
        lines = wrap(says(entry), _INDENT) or [_INDENT]
        yield (row.ljust(42) + lines[0][42:]).rstrip()
        yield from lines[1:]


def summary(report):
    """Yield faults, notes and the verdict."""
    for fault in report.faults:
        yield from wrap(fault_text(fault), "! ")
    for note in report.notes:
        yield from wrap(note, "- ")
    if report.session:
        yield from wrap("a session is open: page T%d, %s kWh since its begin at the last "
                        "checkpoint" % (report.session.page, kwh(
                            report.session.last_mwh - report.session.begin_mwh)), "- ")
    entries = report.entries
    span = ("frames %d to %d" % (entries[0].seq, entries[-1].seq)) if entries else "no frame"
    if report.cursor is not None:
        span += ", confirmed up to %d" % report.cursor
    yield from wrap("%s: %d entries, %s, %d fault%s"
                    % ("SOUND" if report.ok else "BROKEN", len(entries), span,
                       len(report.faults), "" if len(report.faults) == 1 else "s"), "")


def as_object(report, entries):
    """The report as one JSON value."""
    return {
        "name": report.name,
        "ok": report.ok,
        "salvaged": report.salvaged,
        "cursor": report.cursor,
        "open_session_page": report.session.page if report.session else None,
        "faults": [vars(fault) for fault in report.faults],
        "notes": report.notes,
        "entries": [
            {"seq": entry.seq, "type": entry.kind, "file": entry.file, "offset": entry.offset,
             "hash": entry.digest, "previous": entry.previous, "message": entry.message}
            for entry in entries],
    }
