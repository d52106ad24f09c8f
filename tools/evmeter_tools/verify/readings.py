"""One reading of a record: its time, register and status, read as the specification has them."""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from evmeter_tools.verify.parse import RecordError

STATUS = {
    "N": "meter not present", "G": "good", "T": "timeout", "D": "meter disconnected",
    "R": "meter removed", "M": "meter manipulated", "X": "meter exchanged",
    "I": "incompatible meter", "O": "out of range", "S": "substitute value",
    "E": "other error", "F": "read error",
}  # fmt: skip
_READING_KEYS = {"TM", "TX", "RV", "RI", "RU", "RT", "CL", "EF", "ST"}
_VALUE_KEYS = ("RV", "RI", "RU")
_NEEDED = ("TM", "TX", "ST", *_VALUE_KEYS)
_DEFINED = {
    "TX": list("BCXELRAPST"),
    "ST": list(STATUS),
    "EF": ["", "E", "t", "Et", "tE"],
    "RT": ["AC", "DC"],
}
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4}) ([UISR])", re.ASCII
)
_REGISTER = re.compile(
    r"([0-9A-F]{1,2})-([0-9A-F]{1,2}):([0-9A-F]{1,2})\.([0-9A-F]{1,2})\.([0-9A-F]{1,2})"
    r"(?:\*([0-9A-F]{1,3}))?",
    re.ASCII | re.IGNORECASE,
)
_ENERGY = (1, 8)
_LAW_RELEVANT = (0x01, 0x98, 0x9E, *range(0xB0, 0xC8))
_MWH = {"kWh": 1_000_000, "Wh": 1000}


@dataclass
class Reading:
    """One reading of a record; `mwh` is its register as an integer, None where it has none."""

    tx: str
    time: datetime
    quality: str
    mwh: int | None
    raw: dict


def parse_time(text):
    """Return (datetime, quality) of an OCMF time; raise `RecordError` for another form."""
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise RecordError("TM %.40r: not YYYY-MM-DDThh:mm:ss,mmm+hhmm with U, I, S or R" % (text,))
    try:
        return datetime.fromisoformat(match[1]), match[2]
    except ValueError:
        raise RecordError("TM %s is no time of the calendar" % text) from None


def is_billing_register(text):
    """Tell whether S.A.F.E. takes this OBIS code for a billing register."""
    return isinstance(text, str) and _is_billing(text)


@lru_cache(256)
def _is_billing(text):
    match = _REGISTER.fullmatch(text)
    if not match:
        return False
    a, _, c, d, _ = (int(group, 16) for group in match.groups()[:5])
    last = None if match[6] is None else int(match[6], 16)
    return (a, d) == _ENERGY and c in _LAW_RELEVANT and last in (None, 0, 0xFF, 0x255, 0x200)


def register_mwh(value, unit):
    """Return a register in mWh; raise `RecordError` unless it is a whole number of them."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise RecordError("RV %.20r is no number" % (value,))
    if not isinstance(unit, str) or unit not in _MWH:
        raise RecordError("RU %.20r is neither kWh nor Wh" % (unit,))
    if not 0 <= value < 10**12:
        raise RecordError("RV is out of range")
    mwh = Decimal(value) * _MWH[unit]
    if mwh != int(mwh):
        raise RecordError("RV is finer than a milliwatt-hour")
    return int(mwh)


def _check_reading(raw):
    """Raise `RecordError` for a reading that lacks something or holds a value not defined."""
    for name in raw:
        if name not in _READING_KEYS:
            raise RecordError("unknown key %s" % name[:20])
    missing = [name for name in _NEEDED if name not in raw]
    # Only an exception may come without a register, and then without all three of these.
    if raw.get("TX") == "X" and missing[-3:] == list(_VALUE_KEYS):
        del missing[-3:]
    if missing:
        raise RecordError("%s missing" % ", ".join(missing))
    for name, allowed in _DEFINED.items():
        if name in raw and raw[name] not in allowed:
            raise RecordError("%s %.20r is not defined" % (name, raw[name]))
    if "RI" in raw and not is_billing_register(raw["RI"]):
        raise RecordError("RI %.40r is no billing register" % (raw["RI"],))


def read_reading(raw, number):
    """Return a Reading; raise `RecordError` for one that is not as the specification has it."""
    try:
        if not isinstance(raw, dict):
            raise RecordError("no object")
        _check_reading(raw)
        time, quality = parse_time(raw["TM"])
        mwh = register_mwh(raw["RV"], raw["RU"]) if "RV" in raw else None
    except RecordError as error:
        raise RecordError("reading %d: %s" % (number, error)) from None
    return Reading(raw["TX"], time, quality, mwh, raw)
