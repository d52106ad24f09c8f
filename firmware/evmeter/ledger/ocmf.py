r"""The text of OCMF records, built from integers; pure functions.

A record is `OCMF|<payload>|<signature>`. What is signed is the payload's bytes as they stand, so
the text is built once and never again. Pure ASCII: everything else is escaped (S.A.F.E. reads the
text in the platform's character set), and so is the pipe, which separates the sections.

The register is `01-00:B0.08.00*FF`, the total import of the mains meter in the reserved codes of
OCMF: of the registers that S.A.F.E. takes for billing (C of 1 or B0 to C7) it is the one that
says "lifetime register, not compensated" and that may carry a loss (CL) later; pyocmf's strict
mode takes it too. Exactly one such register per record: two of them break S.A.F.E.'s pairing.
"""

import binascii
import hashlib

from micropython import const

# Bytes of a whole record, envelope and the longest signature included
_LIMIT = const(1875)
_SIGNATURE = '{"SA":"ECDSA-secp256r1-SHA256","SD":"%s"}'
# "OCMF||" and the signature section: its text less "%s", 72 bytes of DER in hex
_ENVELOPE = len(_SIGNATURE) - 2 + 6 + 144

_REGISTER = "01-00:B0.08.00*FF"
# The end of 2105, beyond which an unsigned count of seconds is about to end
_TIME_END_MS = 4291747200000
_GATEWAY = ("GI", "GS", "GV")
_METER = ("MV", "MM", "MS", "MF")
_USER = ("IS", "IL", "IF", "IT", "ID")
_OTHER = ("TT", "CF", "LC", "CT", "CI")
_LOSS = ("LN", "LI", "LR", "LU")
_NOBODY = {"IS": False, "IL": "NONE", "IF": (), "IT": "NONE", "ID": ""}
_SINCE = (("TT", "1.1"), ("LC", "1.2"), ("CF", "1.3"))
_LENGTHS = (("ID", 40), ("TT", 250), ("CF", 25))


class OcmfError(Exception):
    """A record that cannot be written: what is missing, too long or out of range."""


class TooLong(OcmfError):
    """A record that would exceed what a QR code or a verifier takes."""


def _escape(code):
    if code > 0xFFFF:
        code -= 0x10000
        return "\\u%04x\\u%04x" % (0xD800 | code >> 10, 0xDC00 | code & 0x3FF)
    return "\\u%04x" % code


def _json(value):
    """Return the JSON of a text, a number, a truth value or a tuple or list of these."""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        return "%d" % value
    if isinstance(value, (tuple, list)):
        return "[%s]" % ",".join([_json(item) for item in value])
    if not isinstance(value, str):
        raise OcmfError("a field is neither text nor a whole number")
    out = []
    for char in value:
        code = ord(char)
        if char in '"\\':
            char = "\\" + char
        elif code < 32 or code > 126 or char == "|":
            char = _escape(code)
        out.append(char)
    return '"%s"' % "".join(out)


def _pairs(fields, keys):
    return ['"%s":%s' % (key, _json(fields[key])) for key in keys if key in fields]


def quantise(mwh, step_mwh):
    """Round an energy in mWh, half up, to a multiple of the meter's own step."""
    return (mwh + step_mwh // 2) // step_mwh * step_mwh


def register(mwh, step_mwh):
    """Return a register, mWh, as kWh with the decimals of the meter's step, rounded once.

    A step of 1000 mWh has three decimals, of 10_000 two, of 1_000_000 none. Raises `OcmfError`
    for a register that is negative or None, or a step below 1.
    """
    if mwh is None or mwh < 0 or step_mwh < 1:
        raise OcmfError("register %s mWh, step %s mWh: not allowed" % (mwh, step_mwh))
    decimals = 6
    unit = 1
    while decimals and step_mwh % (unit * 10) == 0:
        unit *= 10
        decimals -= 1
    kwh, rest = divmod(quantise(mwh, step_mwh), 1000000)
    if not decimals:
        return "%d" % kwh
    return "%d.%s" % (kwh, ("%06d" % rest)[:decimals])


def timestamp(unix_ms, quality):
    """Return unix milliseconds as OCMF writes a time in UTC, with its quality U, I, S or R.

    1970 to 2105, by integer arithmetic: the epoch of `time.gmtime` differs between ports. Raises
    `OcmfError` outside or for another quality.
    """
    if not 0 <= unix_ms < _TIME_END_MS or quality not in ("U", "I", "S", "R"):
        raise OcmfError("time %d ms, quality %s: not allowed" % (unix_ms, quality))
    seconds, ms = divmod(unix_ms, 1000)
    days, seconds = divmod(seconds, 86400)
    # Years that begin in March, counted from 1968-03-01, so that the leap day is the last; the
    # one year in the range that is no leap year against the rule, 2100, is put right first.
    days += 671
    if days >= 48212:
        days += 1
    year = (4 * days + 3) // 1461
    days -= 1461 * year // 4
    month = (5 * days + 2) // 153
    days -= (153 * month + 2) // 5
    year += 1968
    month += 3
    if month > 12:
        month -= 12
        year += 1
    minutes, seconds = divmod(seconds, 60)
    return "%04d-%02d-%02dT%02d:%02d:%02d,%03d+0000 %s" % (
        year, month, days + 1, minutes // 60, minutes % 60, seconds, ms, quality
    )


def _reading(reading, step_mwh, current):
    unix_ms, quality, tx, mwh, errors, status = reading
    if len(status) != 1 or status not in "NGTDRMXIOSEF" or errors not in ("", "E", "t", "Et"):
        raise OcmfError("reading status %s, errors %s: not allowed" % (status, errors))
    time = timestamp(unix_ms, quality)
    value = register(mwh, step_mwh)
    return '{"TM":"%s","TX":"%s","RV":%s,"RI":"%s","RU":"kWh","RT":"%s","EF":"%s","ST":"%s"}' % (
        time, tx, value, _REGISTER, current, errors, status
    )


def _check_readings(kind, readings):
    """Raise `OcmfError` unless the readings' TX letters make a record of this kind."""
    letters = "".join([reading[2] for reading in readings])
    middle = letters
    if kind == "begin":
        good = letters == "B"
        middle = ""
    elif kind == "complete":
        good = letters[:1] == "B" and letters[-1] in "ELRAP"
        middle = letters[1:-1]
    else:
        good = kind == "tariff" and letters
    if not good or middle.replace("T", "") or len(letters) != len(readings):
        raise OcmfError("a %s record cannot have the readings %s" % (kind, letters))


def _check_fields(fields, page):
    known = _GATEWAY + _METER + _USER + _OTHER
    for key in fields:
        if key not in known:
            raise OcmfError("unknown field %s" % key)
    if not fields.get("MS"):
        raise OcmfError("MS: the meter's serial number is missing")
    if page < 0:
        raise OcmfError("pagination %d is below 0" % page)
    for key, most in _LENGTHS:
        if len(fields.get(key, "")) > most:
            raise OcmfError("%s is longer than %d characters" % (key, most))


def payload(kind, fields, page, step_mwh, readings, vendor=(), current="AC"):
    """Return the payload of a record: the text to sign.

    kind      "begin" (one reading, B), "complete" (B, any T, one of E L R A P) or "tariff" (T)
    fields    dict of GI GS GV MV MM MS MF IS IL IF IT ID TT CF LC CT CI; MS is required; without
              an IS nobody is assigned; LC is a dict of LN LI LR LU
    page      pagination of transactions, a number >= 0
    step_mwh  the meter's own energy step
    readings  tuples (unix_ms, quality, tx, register_mwh, errors, status); errors "", "E", "t" or
              "Et", status one letter of OCMF, "G" for good
    vendor    pairs (key, value); keys begin with U to Z
    current   "AC" or "DC"

    Keys left out of `fields` are left out of the record. FV is the lowest version that defines
    the fields used. Raises `OcmfError`; `TooLong`, which is one, when the record would exceed
    1875 bytes.
    """
    _check_readings(kind, readings)
    _check_fields(fields, page)
    version = "1.0"
    for key, since in _SINCE:
        if key in fields:
            version = since
    parts = ['{"FV":"%s"' % version]
    parts += _pairs(fields, _GATEWAY)
    parts.append('"PG":"T%d"' % page)
    parts += _pairs(fields, _METER)
    parts += _pairs(fields if "IS" in fields else _NOBODY, _USER)
    for key in _OTHER:
        if key == "LC" and key in fields:
            parts.append('"LC":{%s}' % ",".join(_pairs(fields[key], _LOSS)))
        else:
            parts += _pairs(fields, (key,))
    parts.append('"RD":[%s]' % ",".join([_reading(r, step_mwh, current) for r in readings]))
    for key, value in vendor:
        if key[:1] not in ("U", "V", "W", "X", "Y", "Z"):
            raise OcmfError("vendor key %s does not begin with U to Z" % key)
        parts.append('"%s":%s' % (key, _json(value)))
    parts[-1] += "}"
    text = ",".join(parts)  # in one piece at once: a small heap has no room for two
    if len(text) + _ENVELOPE > _LIMIT:
        raise TooLong("a record of %d bytes; the limit is %d" % (len(text) + _ENVELOPE, _LIMIT))
    return text


def envelope(signature):
    """Return what stands before and behind the payload in a record's text, as two texts, from the
    DER of its signature."""
    if len(signature) > 72:
        raise OcmfError("a signature of %d bytes" % len(signature))
    return "OCMF|", "|" + _SIGNATURE % binascii.hexlify(signature).decode()


def signed_part(text):
    """Return the signed bytes of a record: what stands between its two pipes."""
    parts = text.split("|")
    if len(parts) != 3 or parts[0] != "OCMF":
        raise OcmfError("not an OCMF record")
    return parts[1].encode()


def record_hash(payload_bytes):
    """Return what the next record names in ZP: 32 hex digits, half the SHA-256 of the payload."""
    return binascii.hexlify(hashlib.sha256(payload_bytes).digest()[:16]).decode()


def pagination(text):
    """Return the number n of the pagination `T<n>` of a record that this module wrote."""
    start = text.find('"PG":"T')
    digits = text[start + 7 : text.find('"', start + 7)]
    if start < 0 or not digits.isdigit():
        raise OcmfError("no pagination in the record")
    return int(digits)
