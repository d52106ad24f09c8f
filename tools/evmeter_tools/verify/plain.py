"""A short way for the records that a device writes nearly always: begin and complete, believed
readings, no tariff change, nothing escaped.

What is read here would hold by check.py, but for the signature; whatever is not exactly of this
form is None and goes the long way, which says why. Tests hold the two against each other.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from evmeter_tools.verify.check import user_faults
from evmeter_tools.verify.parse import OURS, RecordError, strict_json
from evmeter_tools.verify.readings import is_billing_register

_TEXT = r"[ !#-\[\]-~]"  # printable ASCII but quote and backslash
_PAYLOAD = re.compile(
    r'\{"FV":"(?:0\.[1-9]|1\.[0-3])","GI":"T*","GS":"(?P<gs>T+)","GV":"T*",'
    r'"PG":"T(?:0|[1-9][0-9]{0,17})","MV":"T*","MM":"T*","MS":"T+",'
    r'(?P<user>"IS":(?:true|false),"IL":"[A-Z]*","IF":\[[A-Z0-9_",]*\],"IT":"[A-Z0-9_]*"),'
    r'"ID":"T{0,40}",(?:"TT":"T{0,250}",)?(?:"CF":"T{0,25}",)?'
    r'(?:"CT":"(?:EVSEID|CBIDC)","CI":"T*",)?'
    r'"RD":\[(?P<begin>\{[^{}]*\})(?:,(?P<end>\{[^{}]*\}))?\],'
    r'"ZP":"[0-9a-f]{32}","ZS":"(?P<zs>(?P=gs)-T*)","ZQ":"(?:meter|label)"'
    r'(?:,"ZB":(?P<zb>[01]))?(?:,"ZG":(?P<zg>0|[1-9][0-9]{0,11}))?\}'.replace("T*", _TEXT + "*")
    .replace('"T+"', '"%s+"' % _TEXT).replace(">T+", ">%s+" % _TEXT).replace("T{", _TEXT + "{"),
    re.ASCII)
_READING = re.compile(
    r'\{"TM":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4}) [UIS]","TX":"([BELRAP])",'
    r'"RV":(0|[1-9]\d{0,8})\.(\d{1,6}),("RI":"([^"\\]*)","RU":"kWh","RT":"(?:AC|DC)"),'
    r'"EF":"t?","ST":"G"\}', re.ASCII)


@dataclass(slots=True)
class Plain:
    """What a plain record says: `kind` "begin" or "complete", its signed bytes and their
    signature (DER), session, aware times, registers and gap in mWh, TX of the end ("" for a
    begin)."""

    kind: str
    signed: bytes
    signature: bytes
    session: str
    begin: datetime
    begin_mwh: int
    end: datetime
    end_mwh: int
    tx: str
    gap_mwh: int
    billable: bool


@lru_cache(1024)
def _is_user(text):
    """Whether the user assignment holds."""
    try:
        return not list(user_faults(strict_json("{%s}" % text, "user")))
    except RecordError:
        return False


def _read(text):
    """(time, TX, mWh, register and unit as text) of a reading, or None."""
    match = _READING.fullmatch(text)
    if not match or not is_billing_register(match[6]):
        return None
    try:
        time = datetime.fromisoformat(match[1])
    except ValueError:
        return None
    return time, match[2], int(match[3]) * 1_000_000 + int(match[4].ljust(6, "0")), match[5]


def plain_record(text):
    """The Plain of a record's text, None for any that is to go the long way."""
    parts = text.split("|")
    if len(parts) != 3 or parts[0] != "OCMF":
        return None
    match, signature = _PAYLOAD.fullmatch(parts[1]), OURS.fullmatch(parts[2])
    if not match or not signature or len(signature[1]) % 2 or not _is_user(match["user"]):
        return None
    begin = end = _read(match["begin"])
    if match["end"] is not None:
        end = _read(match["end"])
    if not begin or not end or begin[1] != "B":
        return None
    gap_mwh = int(match["zg"] or 0)
    if end is not begin and (end[1] == "B" or end[0] < begin[0] or end[2] < begin[2]
                             or end[3] != begin[3] or gap_mwh > end[2] - begin[2]):
        return None
    return Plain("begin" if end is begin else "complete", parts[1].encode(),
                 bytes.fromhex(signature[1]), match["zs"], begin[0], begin[2],
                 end[0], end[2], end[1] if end is not begin else "", gap_mwh,
                 match["zb"] != "0")
