"""What a receipt says of a session: words and figures, without a form."""

from dataclasses import dataclass, field
from itertools import pairwise

import segno

from evmeter_tools.words import clean, kwh

# ISO/IEC 18004: bytes that the largest code takes at the lowest error correction
QR_BYTES = 2953

QUALITY = {
    "S": "synchronised clock",
    "I": "informative clock, not proven",
    "U": "clock was never set: time unknown",
    "R": "relative time: only the duration counts",
}
ENDINGS = {
    "E": "ended (vehicle unplugged, or end without a special reason)",
    "L": "ended at the charge point",
    "R": "ended by remote control",
    "A": "aborted",
    "P": "ended by a power failure",
}
NOTICES = (
    ("The key that signs the records lies in the flash of the device, which a stock firmware "
     "image does not encrypt. The signature shows that a record was not changed after it was "
     "signed; it does not show that nobody opened the device and copied the key."),
    ("No conformity with metering or calibration law (in Germany: Mess- und Eichrecht) is "
     "claimed for the device, the records or this receipt."),
    ("To check it yourself: load the XML file into the S.A.F.E. Transparenzsoftware, or scan the "
     "code, save the text and run evmeter verify on it. Either way compare the public key below "
     "with the one that the operator publishes or that stands on the device's label."),
)


@dataclass
class Sheet:
    """A receipt: `ok` and `verdict` first, `rows` of (label, value), `parts` of (from, to, energy)
    between tariff changes, `findings` of the verification, the records and their key."""

    title: str
    ok: bool
    verdict: str
    rows: list
    parts: list
    findings: list
    records: list
    key: str
    qr: segno.QRCode | None
    own: list  # what the meter signed itself: (text, its key in hex)
    notices: tuple = NOTICES
    qr_text: str = field(default="", repr=False)


def principal(session):
    """The record that speaks for the session: the complete one, else the first."""
    for record in session.records:
        if record.kind == "complete":
            return record
    return session.records[0]


def _time(reading):
    """A reading's time as it is signed, with what its quality means."""
    stamp = reading.raw["TM"]
    return "%s %s UTC%s:%s (%s)" % (
        stamp[:10], stamp[11:23].replace(",", "."), stamp[23:26], stamp[26:28],
        QUALITY[reading.quality])


def _register(reading):
    """A register as it is signed, digit by digit."""
    if reading.mwh is None:
        return "-"
    return "%s %s" % (reading.raw["RV"], reading.raw["RU"])


def _own(own):
    """A record that the meter signed itself, in one line."""
    value = "" if own.total_mwh is None else ", %s kWh" % kwh(own.total_mwh)
    return "%s of %s at the %s%s, signature %s" % (
        own.page, own.serial, "begin" if own.tx == "B" else "end", value,
        "valid" if own.signature else "INVALID")


def _joined(record, names):
    return " ".join(str(record.get(name)) for name in names if record.get(name)) or "-"


def _user(record):
    if not record.get("IS"):
        return "nobody was identified"
    return "%s %s (%s)" % (record.get("IT"), record.get("ID") or "", record.get("IL") or "-")


def _rows(session, record):
    yield "Session", session.id
    if record.get("CI"):
        yield "Charge point", "%s (%s)" % (record.get("CI"), record.get("CT"))
    yield "Device", _joined(record, ("GI", "GS", "GV"))
    source = ", number from its label" if record.get("ZQ") == "label" else ""
    yield "Meter", "%s, serial number %s%s" % (
        _joined(record, ("MV", "MM", "MF")), record.get("MS") or "-", source)
    yield "User", _user(record)
    for name, reading in (("Begin", session.begin), ("End", session.end)):
        yield name, _time(reading) if reading else "- (not in the records)"
        if reading:
            yield "Register at %s" % name.lower(), _register(reading)
    energy = session.energy_mwh
    yield "Energy", "-" if energy is None else "%s kWh" % kwh(energy)
    if type(record.get("ZG")) is int and record.get("ZG"):
        yield "Of this unseen", ("%s kWh flowed while the device was off; not billed without the "
                                 "operator's confirmation" % kwh(record.get("ZG")))
    if session.end:
        yield "How it ended", ENDINGS.get(session.end.tx, session.end.tx)
    if record.get("TT"):
        yield "Tariff", record.get("TT")
    loss = record.get("LC")
    if isinstance(loss, dict):
        yield "Cable loss", " ".join(str(loss[name]) for name in ("LN", "LR", "LU")
                                     if name in loss)
    if session.own:
        yield "Meter's own records", "; ".join(_own(own) for own in session.own)
    yield "Billable", "yes" if session.billable else "no"


def _parts(session):
    """The parts between tariff changes; none where the tariff did not change."""
    if not session.changes or not session.begin or not session.end:
        return
    readings = [session.begin, *session.changes, session.end]
    for before, after in pairwise(readings):
        energy = "-" if None in (before.mwh, after.mwh) else "%s kWh" % kwh(
            after.mwh - before.mwh)
        yield _time(before), _time(after), energy


def _verdict(session):
    if not session.ok:
        return "NOT VERIFIED: do not rely on this receipt"
    if session.state == "open":
        return "Verified so far: the session has no end yet"
    return "Verified: signature and rules hold, complete transaction"


def _findings(session, key_given):
    for record in session.records:
        words = "record %s (%s): signature %s" % (
            record.get("PG"), record.kind,
            {True: "valid", False: "INVALID", None: "not checked"}[record.signature])
        yield words
        yield from ("record %s: %s" % (record.get("PG"), text)
                    for text in record.reasons + record.notes)
    yield from session.reasons + session.notes
    if not key_given:
        yield "the key was taken from the input and is not proven by it"


def qr_code(text):
    """The code of a text, with the best error correction that the largest ones still take; None
    where it does not fit at all."""
    data = text.encode()
    if len(data) > QR_BYTES:
        return None
    for level in "ml":
        try:
            return segno.make_qr(data, error=level, mode="byte")
        except segno.DataOverflowError:
            continue
    return None


def sheet(session, key_given):
    """Return the `Sheet` of a session (verify.sessions.Session). `key_given`: whether the public
    key came from the reader rather than with the records."""
    record = principal(session)
    key = "" if record.key is None else record.key.hex()
    text = "%s\n%s\n" % (record.text, key)
    rows = [(label, clean(value)) for label, value in _rows(session, record)]
    return Sheet(
        "Charging session %s" % clean(session.id), session.ok, _verdict(session), rows,
        list(_parts(session)), [clean(text) for text in _findings(session, key_given)],
        [item.text for item in session.records], key, qr_code(text),
        [(own.text, own.key.hex()) for own in session.own], qr_text=text)
