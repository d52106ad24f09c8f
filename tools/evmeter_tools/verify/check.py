"""Judge OCMF records: pure functions, no files, no printing.

A record holds when its signature is right and it keeps the rules by which S.A.F.E.'s
Transparenzsoftware and the OCMF specification judge it; a `complete` record is then what S.A.F.E.
calls a complete transaction. Reasons are whole words, one for each fault found.
"""

import hashlib
import re
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise

from evmeter_tools.verify.parse import (
    RecordError,
    check_signature,
    key_id,
    parse_key,
    split,
)
from evmeter_tools.verify.readings import STATUS, read_reading

END_LETTERS = "ELRAP"
LEVELS = ("NONE", "HEARSAY", "TRUSTED", "VERIFIED", "CERTIFIED", "SECURE")
ERROR_LEVELS = ("MISMATCH", "INVALID", "OUTDATED", "UNKNOWN")
ID_TYPES = (
    "NONE DENIED UNDEFINED ISO14443 ISO15693 EMAID EVCCID EVCOID ISO7812 CARD_TXN_NR CENTRAL "
    "CENTRAL_1 CENTRAL_2 LOCAL LOCAL_1 LOCAL_2 PHONE_NUMBER KEY_CODE"
).split()
FLAGS = {
    "RFID": "NONE PLAIN RELATED PSK".split(),
    "OCPP": "NONE RS AUTH RS_TLS AUTH_TLS CACHE WHITELIST CERTIFIED".split(),
    "ISO15118": "NONE PNC".split(),
    "PLMN": "NONE RING SMS".split(),
}
_GROUP_OF = {"%s_%s" % (group, name): group for group in FLAGS for name in FLAGS[group]}
_TEXTS = ("GI", "GS", "GV", "MV", "MM", "MS", "MF", "ID", "TT", "CF", "CT", "CI")
# what a field may hold at most, and the version of the format that defines it
_LONGEST = {"ID": 40, "TT": 250, "CF": 25}
_SINCE = {"TT": "1.1", "LC": "1.2", "CF": "1.3"}
_LOSS = {"LN": str, "LI": (int, Decimal), "LR": (int, Decimal), "LU": str}
_KNOWN = frozenset((*_TEXTS, "FV", "PG", "IS", "IL", "IF", "IT", "LC", "RD"))
_VENDOR = tuple("UVWXYZ")
_VERSION = re.compile(r"0\.[1-9]|1\.[0-3]", re.ASCII)
_PAGE = re.compile("([TF])(0|[1-9][0-9]{0,17})", re.ASCII)
_HASH = re.compile("[0-9a-f]{32}", re.ASCII)


@dataclass
class Verdict:
    """What was found out about one record.

    kind        "begin", "complete", "tariff" or "other"
    signature   True, False, or None where no key was at hand
    complete    a complete transaction by S.A.F.E.'s rules
    reasons     why it does not hold; empty when it does
    notes       what a reader should know and is no fault
    signed      the signed bytes, `payload` the same parsed, None where they cannot be read
    key         DER of the key it was checked with
    """

    text: str
    kind: str = "other"
    signature: bool | None = None
    complete: bool = False
    reasons: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    signed: bytes | None = None
    payload: dict | None = None
    readings: list = field(default_factory=list)
    key: bytes | None = None

    @property
    def ok(self):
        """Tell whether the record holds: signed by the key and free of faults."""
        return self.signature is True and not self.reasons

    def get(self, name):
        """Return a value of the payload, None where there is none."""
        return None if self.payload is None else self.payload.get(name)

    @property
    def page(self):
        """The number of a `T<n>` pagination, None where there is none."""
        match = _PAGE.fullmatch(str(self.get("PG")))
        return int(match[2]) if match and match[1] == "T" else None

    @property
    def session(self):
        """The session id from the vendor key ZS, None where there is none."""
        value = self.get("ZS")
        return value if isinstance(value, str) else None

    @property
    def hash(self):
        """What the next record of the device names in ZP, None for an unreadable record."""
        return None if self.signed is None else hashlib.sha256(self.signed).digest()[:16].hex()

    @property
    def key_id(self):
        """The short name of the key it was checked with, None without one."""
        return None if self.key is None else key_id(self.key)


def user_faults(payload):
    """Yield what is wrong with the user assignment."""
    if not isinstance(payload.get("IS"), bool):
        yield "IS is missing or neither true nor false"
    level = payload.get("IL", "NONE")
    if level in ERROR_LEVELS:
        yield "IL %s says that the user was not identified rightly" % level
    elif level not in LEVELS:
        yield "IL %.20r is not defined" % (level,)
    if payload.get("IT") not in ID_TYPES:
        yield "IT is missing or not defined"
    flags = payload.get("IF", [])
    if not isinstance(flags, list) or not all(
            isinstance(flag, str) and flag in _GROUP_OF for flag in flags):
        yield "IF is no list of defined flags"
    elif len({_GROUP_OF[flag] for flag in flags}) != len(flags):
        yield "IF has two flags of one group"


def _vendor_faults(payload):
    """Yield what is wrong with the keys that this product adds."""
    if "ZP" in payload and not _HASH.fullmatch(str(payload["ZP"])):
        yield "ZP is not 32 hex digits"
    if "ZG" in payload and (type(payload["ZG"]) is not int or payload["ZG"] < 0):
        yield "ZG is no whole number of mWh"
    if type(payload.get("ZB", 1)) is not int or payload.get("ZB", 1) not in (0, 1):
        yield "ZB is neither 0 nor 1"
    if payload.get("ZQ", "meter") not in ("meter", "label"):
        yield "ZQ is neither meter nor label"
    session, gateway = payload.get("ZS", ""), payload.get("GS")
    if not isinstance(session, str):
        yield "ZS is no text"
    elif session and gateway and not session.startswith("%s-" % gateway):
        yield "ZS is not a session of the device in GS"
    if "ZT" in payload and (type(payload["ZT"]) is not int or payload["ZT"] < 0):
        yield "ZT is no number of readings"


def _loss_faults(loss):
    """Yield what is wrong with the cable loss."""
    if not isinstance(loss, dict) or not {"LR", "LU"} <= set(loss) <= set(_LOSS):
        yield "LC is not LR and LU, with LN and LI where known"
        return
    for name, value in loss.items():
        if isinstance(value, bool) or not isinstance(value, _LOSS[name]):
            yield "LC: %s has the wrong type" % name
    if loss["LU"] not in ("mOhm", "uOhm"):
        yield "LC: LU is neither mOhm nor uOhm"
    if len(str(loss.get("LN", ""))) > 20:
        yield "LC: LN is longer than 20 characters"


def _payload_faults(payload):
    """Yield what is wrong outside the readings."""
    others = payload.keys() - _KNOWN
    for name in payload if others else ():
        if name in others and name[:1] not in _VENDOR:
            yield "unknown key %s" % name[:20]
    version = payload.get("FV")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        yield "FV is missing or not 0.1 to 1.3, which S.A.F.E. accepts"
    if not _PAGE.fullmatch(str(payload.get("PG"))):
        yield "PG is not T or F and a number"
    for name in _TEXTS:
        if not isinstance(payload.get(name, ""), str):
            yield "%s is no text" % name
    for name, most in _LONGEST.items():
        if isinstance(payload.get(name), str) and len(payload[name]) > most:
            yield "%s is longer than %d characters" % (name, most)
    if payload.get("CT", "EVSEID") not in ("EVSEID", "CBIDC"):
        yield "CT is neither EVSEID nor CBIDC"
    if "LC" in payload:
        yield from _loss_faults(payload["LC"])
    if not payload.get("MS"):
        yield "MS, the meter's serial number, is missing"
    if str(payload.get("PG"))[:1] == "T":
        yield from user_faults(payload)
    yield from _vendor_faults(payload)


def _order_faults(readings):
    """Yield where times, registers or their meaning do not run on from reading to reading."""
    for before, after in pairwise(readings):
        if after.time < before.time:
            yield "the time goes back from %s to %s" % (before.tx, after.tx)
        if None not in (before.mwh, after.mwh):
            if after.mwh < before.mwh:
                yield "the register goes back from %s to %s" % (before.tx, after.tx)
            for name in ("RI", "RU", "RT"):
                if before.raw.get(name) != after.raw.get(name):
                    yield "%s differs between %s and %s" % (name, before.tx, after.tx)


def _kind(letters):
    ends = [letter for letter in letters if letter in END_LETTERS]
    if "B" in letters:
        return "complete" if ends else "begin"
    return "tariff" if letters and not letters.strip("T") else "other"


def _edge_faults(reading):
    """Yield why a begin, tariff or end reading cannot count; S.A.F.E. asks it of begin and end."""
    name = {"B": "begin", "T": "tariff"}.get(reading.tx, "end")
    status = reading.raw["ST"]
    if status != "G":
        yield "%s reading not believed: ST %s, %s" % (name, status, STATUS[status])
    if "E" in reading.raw.get("EF", ""):
        yield "%s reading: EF says that its energy is not usable" % name


def _reading_faults(readings, kind):
    """Yield what is wrong with the readings together, by S.A.F.E.'s begin and end rules."""
    letters = "".join(reading.tx for reading in readings)
    if "X" in letters:
        yield "TX X: time or energy is not usable"
    if kind == "other":
        yield "neither a begin nor an end reading: S.A.F.E. would judge the signature alone"
    if kind in ("begin", "complete") and letters.rfind("B") != 0:
        yield "there is not exactly one begin reading, first"
    if kind == "complete" and len(letters.rstrip(END_LETTERS)) != len(letters) - 1:
        yield "there is not exactly one end reading, last"
    if kind == "complete" and set(letters[:-1]) & set(END_LETTERS):
        yield "there is an end reading before the last"
    for reading in readings:
        if reading.tx in ("B", "T") or reading.tx in END_LETTERS:
            yield from _edge_faults(reading)
    if readings[0].quality == "R" and readings[-1].quality != "R":
        yield "the begin has a relative time (R) and the end has not"
    yield from _order_faults(readings)


def _energy(verdict):
    """The register's difference from the first to the last reading, mWh, 0 where unknown."""
    first, last = verdict.readings[0].mwh, verdict.readings[-1].mwh
    return 0 if None in (first, last) else last - first


def _judge(verdict):
    """Fill in what the payload shows, with the reasons against it."""
    payload = verdict.payload
    verdict.reasons += _payload_faults(payload)
    raw = payload.get("RD")
    if not isinstance(raw, list) or not raw:
        verdict.reasons.append("RD has no readings")
        return
    try:
        verdict.readings = [read_reading(item, number + 1) for number, item in enumerate(raw)]
    except RecordError as error:
        verdict.reasons.append(str(error))
        return
    verdict.kind = _kind("".join(reading.tx for reading in verdict.readings))
    verdict.reasons += _reading_faults(verdict.readings, verdict.kind)
    if verdict.kind != "other" and verdict.page is None:
        verdict.reasons.append("PG is not of the transaction counter T")
    gap_mwh = payload.get("ZG")
    if verdict.kind == "complete" and type(gap_mwh) is int and gap_mwh > _energy(verdict):
        verdict.reasons.append("ZG is more than all of its energy")
    for name, since in _SINCE.items():
        if name in payload and str(payload.get("FV")) < since:
            verdict.notes.append("FV %s does not define %s yet; %s does"
                                 % (str(payload.get("FV"))[:5], name, since))
    if payload.get("ZQ") == "label":
        verdict.notes.append("the meter's serial number is from its label, not from the meter")
    if payload.get("ZB") == 0:
        verdict.notes.append("marked not billable by the device")
    if type(gap_mwh) is int and gap_mwh:
        verdict.notes.append("%d mWh flowed unseen while the device was off" % gap_mwh)
    if not verdict.signed.isascii():
        verdict.notes.append("not ASCII: other software may read the text differently")


def check_record(text, key):
    """Judge one record's text with a public key; return a `Verdict`, never raise for the record.

    `key` is what `parse_key` takes, or None: then everything but the signature is judged and the
    record does not hold. Raises `KeyFormatError` for a key that is none.
    """
    verdict = Verdict(text)
    if key is not None:
        verdict.key = parse_key(key)
    try:
        verdict.signed, verdict.payload, section = split(text)
        if verdict.key is None:
            verdict.reasons.append("signature: not checked, there is no key")
        else:
            verdict.signature = False
            check_signature(verdict.signed, section, verdict.key)
            verdict.signature = True
    except RecordError as error:
        verdict.reasons.append(str(error))
    if verdict.payload is not None:
        _judge(verdict)
    verdict.complete = verdict.ok and verdict.kind == "complete"
    return verdict
