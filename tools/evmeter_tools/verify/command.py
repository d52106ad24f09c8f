"""`evmeter verify`: judge a file of records and say so in words, at most 80 columns wide."""

import json
from pathlib import Path
from typing import Annotated

import typer

from evmeter_tools.device.package import split
from evmeter_tools.errors import UserError
from evmeter_tools.verify.audit import compare
from evmeter_tools.verify.device import judge
from evmeter_tools.verify.parse import key_id
from evmeter_tools.verify.read import find_all, read_input, read_key
from evmeter_tools.words import clean, kwh, wrap

_STATE = {True: "valid", False: "INVALID", None: "not checked"}


def _verdict_words(record):
    if not record.ok:
        return "FAILS"
    return "complete transaction" if record.complete else "holds"


def _record_lines(records):
    yield "%-8s%-10s%-26s%-13s%s" % ("page", "kind", "session", "signature", "verdict")
    for record in records:
        yield "%-8s%-10s%-26s%-13s%s" % (
            clean(record.get("PG") or "?")[:7],
            record.kind,
            clean(record.session or "-")[:25],
            _STATE[record.signature],
            _verdict_words(record),
        )
        for reason in record.reasons:
            yield from wrap(reason, "        ! ")
        for note in record.notes:
            yield from wrap(note, "        - ")


def _entry_lines(entries):
    if not entries:
        return
    yield ""
    yield "%-8s%-22s%-26s%s" % ("entry", "event", "session", "signature")
    for entry in entries:
        yield "%-8s%-22s%-26s%s" % (
            "?" if entry.seq is None else str(entry.seq)[:7], clean(entry.event)[:21],
            clean(entry.session or "-")[:25], _STATE[entry.signature])
        if entry.new_key:
            yield "        = new key %s, signed by both" % key_id(entry.new_key)
        if entry.own:
            yield from wrap("%s of meter %s, TX=%s: its signature %s" % (
                entry.own.page, entry.own.serial, entry.own.tx,
                "valid" if entry.own.signature else "INVALID"), "        = ")
        if entry.legal is not None:
            yield from wrap("firmware %s%s, prompt %s; legally relevant part %s" % (
                clean(entry.message.get("fw"))[:20],
                ", release " + clean(entry.release) if entry.release else "",
                "closed" if entry.message.get("lock") else "open",
                entry.legal or "not told"), "        = ")
        for reason in entry.reasons:
            yield from wrap(reason, "        ! ")
        for note in entry.notes:
            yield from wrap(note, "        - ")


def _session_lines(sessions):
    for session in sessions:
        words = session.state.upper() if session.state == "broken" else session.state
        if session.state == "complete":
            words += ", billable" if session.billable else ", not billable"
        yield "%s: %s" % (clean(session.id)[:50], words)
        for name, reading in (("begin", session.begin),
                              *(("tariff", reading) for reading in session.changes),
                              ("end", session.end)):
            if reading is not None:
                value = "-" if reading.mwh is None else kwh(reading.mwh)
                yield "        %-7s%s  %s  %s kWh" % (
                    name, clean(reading.raw["TM"]), reading.tx, value
                )  # fmt: skip
        if session.energy_mwh is not None:
            yield "        energy %s kWh, worst time quality %s" % (
                kwh(session.energy_mwh), session.quality
            )  # fmt: skip
        for own in session.own:
            if own.total_mwh is not None:
                yield "        by the meter's own %-8s %s %s kWh" % (
                    clean(own.page)[:8] + ",", own.tx, kwh(own.total_mwh))
        for reason in session.reasons:
            yield from wrap(reason, "        ! ")
        for note in session.notes:
            yield from wrap(note, "        - ")


def _key_lines(keys, given):
    names = ", ".join(sorted(key_id(key) for key in keys))
    if given:
        yield "Key %s, as given by --key." % names
    else:
        yield from wrap(
            "Key %s, taken from the input and not proven: compare it with the one on the meter or "
            "from the operator, or give it by --key." % names,
            "",
        )


def _text(report, keys, given):
    """Return the report for people."""
    lines = [*_key_lines(keys, given), "", *_record_lines(report.records),
             *_entry_lines(report.entries), ""]
    lines += _session_lines(report.sessions)
    for reason in report.reasons:
        lines += wrap(reason, "! ")
    for note in report.notes:
        lines += wrap(note, "- ")
    good = sum(record.ok for record in report.records)
    sound = sum(session.ok for session in report.sessions)
    audit = ""
    if report.entries:
        audit = ", %d of %d audit entries" % (sum(entry.ok for entry in report.entries),
                                              len(report.entries))
    lines.append("")
    lines.append(
        "%s: %d of %d records hold, %d of %d sessions%s"
        % (
            "OK" if report.ok else "FAILED",
            good,
            len(report.records),
            sound,
            len(report.sessions),
            audit,
        )
    )
    return "\n".join(lines)


def _json(report, keys, given):
    """Return the report for programs: one object, energies as integers in mWh."""
    return json.dumps(
        {
            "ok": report.ok,
            "keys": [{"id": key_id(key), "spki": key.hex()} for key in keys],
            "key_source": "given" if given else "input",
            "records": [
                {
                    "page": record.get("PG"),
                    "kind": record.kind,
                    "session": record.session,
                    "key": record.key_id,
                    "signature": record.signature,
                    "complete_transaction": record.complete,
                    "ok": record.ok,
                    "reasons": record.reasons,
                    "notes": record.notes,
                }
                for record in report.records
            ],
            "sessions": [
                {
                    "id": session.id,
                    "state": session.state,
                    "pages": [record.get("PG") for record in session.records],
                    "begin": session.begin and session.begin.raw["TM"],
                    "end": session.end and session.end.raw["TM"],
                    "begin_mwh": session.begin and session.begin.mwh,
                    "end_mwh": session.end and session.end.mwh,
                    "energy_mwh": session.energy_mwh,
                    "tariff_changes": [{"time": reading.raw["TM"], "mwh": reading.mwh}
                                       for reading in session.changes],
                    "meter_records": [{"page": own.page, "tx": own.tx, "mwh": own.total_mwh}
                                      for own in session.own],
                    "time_quality": session.quality,
                    "billable": session.billable,
                    "ok": session.ok,
                    "reasons": session.reasons,
                    "notes": session.notes,
                }
                for session in report.sessions
            ],
            "audit": [
                {
                    "seq": entry.seq,
                    "event": entry.event,
                    "session": entry.session,
                    "key": entry.key_id,
                    "signature": entry.signature,
                    "new_key": entry.new_key and key_id(entry.new_key),
                    "legal": entry.legal,
                    "release": entry.release,
                    "meter_record": entry.own and {
                        "page": entry.own.page, "tx": entry.own.tx, "serial": entry.own.serial,
                        "signature": entry.own.signature, "mwh": entry.own.total_mwh,
                        "spki": entry.own.key.hex(), "ocmf": entry.own.text},
                    "ok": entry.ok,
                    "reasons": entry.reasons,
                    "notes": entry.notes,
                }
                for entry in report.entries
            ],
            "reasons": report.reasons,
            "notes": report.notes,
        },
        indent=1,
        default=str,
    )


def _releases(files):
    """{SHA-256 over the legally relevant part: file and version} of packages. Raises UserError."""
    found = {}
    for file in files:
        try:
            _, _, fields = split(file.read_bytes())
        except OSError as error:
            raise UserError("%s: cannot be read: %s" % (file, error.strerror)) from None
        except UserError as error:
            raise UserError("%s: %s" % (file, error)) from None
        found[fields.get("legal")] = "%s of %s" % (fields.get("version"), file.name)
    return found


def verify(
    file: Annotated[
        str, typer.Argument(help="OCMF text, JSON lines or S.A.F.E. XML; - is the standard input")
    ],
    key: Annotated[
        str | None, typer.Option("--key", help="Public key: hex, or a file with hex, PEM or DER")
    ] = None,
    release: Annotated[list[Path] | None, typer.Option(
        help="Package that the device may run; may be given more than once")]
    = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
    whole: Annotated[bool, typer.Option(
        "--whole", help="The input is all records of its devices: a missing page is a fault")]
    = False,
):
    """Check signed records: each by itself, as sessions, and as a device's whole story.

    A record: signature, schema, begin and end rules. A session: the same serial numbers, user and
    key, pages without gap or repeat, tariff readings in order between begin and end. A device:
    the chain of its records, no page twice, registers and times that never go back, one key or
    changes of it that both keys signed. Audit entries, where an export has them: signatures, key
    changes, the records that a meter signed itself, each by the meter's own key, and at each start
    the hash over the firmware's legally relevant part, held against each --release.

    Exit code 0: everything holds. 1: something does not. 2: the input or the key cannot be read.

    Example: evmeter verify build/demo/records.jsonl --whole
    """
    given = None if key is None else read_key(key)
    name = "standard input" if file == "-" else file
    records, entries = find_all(read_input(file), name)
    keys = {given} if given else {own for _, own in (*records, *entries) if own}
    if not keys:
        raise UserError("%s holds no key: give the device's public key by --key" % name)
    report = judge(records, entries, given, is_whole=whole)
    compare(report.entries, _releases(release or ()))
    print((_json if as_json else _text)(report, sorted(keys), given))
    if not report.ok:
        raise typer.Exit(1)
