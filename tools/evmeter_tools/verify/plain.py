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
_READING = (
    r'\{"TM":"(?P<EDGE_at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4}) [UIS]","TX":"EDGE_TX",'
    r'"RV":(?P<EDGE_kwh>0|[1-9]\d{0,8})\.(?P<EDGE_part>\d{1,6}),EDGE_UNIT,"EF":"t?","ST":"G"\}')
_UNIT = r'(?P<unit>"RI":"(?P<register>[^"\\]*)","RU":"kWh","RT":"(?:AC|DC)")'


def _reading(edge, tx, unit):
    return _READING.replace("EDGE_TX", tx).replace("EDGE_UNIT", unit).replace("EDGE", edge)


_RECORD = re.compile((
    r'OCMF\|(?P<signed>'
    r'\{"FV":"(?:0\.[1-9]|1\.[0-3])","GI":"T*","GS":"(?P<gs>T+)","GV":"T*",'
    r'"PG":"T(?:0|[1-9][0-9]{0,17})","MV":"T*","MM":"T*","MS":"T+",'
    r'(?P<user>"IS":(?:true|false),"IL":"[A-Z]*","IF":\[[A-Z0-9_",]*\],"IT":"[A-Z0-9_]*"),'
    r'"ID":"T{0,40}",(?:"TT":"T{0,250}",)?(?:"CF":"T{0,25}",)?'
    r'(?:"CT":"(?:EVSEID|CBIDC)","CI":"T*",)?'
    r'"RD":\[BEGIN(?:,END)?\],'
    r'"ZP":"[0-9a-f]{32}","ZS":"(?P<zs>(?P=gs)-T*)","ZQ":"(?:meter|label)"'
    r'(?:,"ZB":(?P<zb>[01]))?(?:,"ZG":(?P<zg>0|[1-9][0-9]{0,11}))?\})\|'.replace("T*", _TEXT + "*")
    .replace('"T+"', '"%s+"' % _TEXT).replace(">T+", ">%s+" % _TEXT).replace("T{", _TEXT + "{")
    .replace("BEGIN", _reading("begin", "B", _UNIT))
    .replace("END", _reading("end", "(?P<tx>[ELRAP])", "(?P=unit)"))
    + OURS.pattern.replace("(", "(?P<signature>")), re.ASCII)
_WANTED = ("signed", "user", "begin_at", "begin_kwh", "begin_part", "register", "end_at", "tx",
           "end_kwh", "end_part", "zs", "zb", "zg", "signature")


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


def _mwh(kwh, part):
    return int(kwh) * 1_000_000 + int(part.ljust(6, "0"))


def plain_record(text):
    """The Plain of a record's text, None for any that is to go the long way."""
    match = _RECORD.fullmatch(text)
    if not match or text.count("|") != 2:
        return None
    (signed, user, begin_at, begin_kwh, begin_part, register, end_at, tx, end_kwh, end_part,
     session, billable, gap, signature) = match.group(*_WANTED)
    if len(signature) % 2 or not _is_user(user) or not is_billing_register(register):
        return None
    try:
        begin = end = datetime.fromisoformat(begin_at)
        if tx:
            end = datetime.fromisoformat(end_at)
    except ValueError:
        return None
    begin_mwh = end_mwh = _mwh(begin_kwh, begin_part)
    gap_mwh = int(gap or 0)
    if tx:
        end_mwh = _mwh(end_kwh, end_part)
        if end < begin or gap_mwh > end_mwh - begin_mwh or end_mwh < begin_mwh:
            return None
    return Plain("complete" if tx else "begin", signed.encode(), bytes.fromhex(signature),
                 session, begin, begin_mwh, end, end_mwh, tx or "", gap_mwh, billable != "0")
