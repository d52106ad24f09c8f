"""Durable messages of the MQTT contract v1: what a collector accepts, and why not."""

import json
import re
from datetime import UTC, datetime, timedelta

from evmeter_tools.backend.store import Entry
from evmeter_tools.verify.audit import check_entry
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.parse import KEY_CHANGE, RecordError, check_der, parse_key
from evmeter_tools.verify.plain import plain_record
from evmeter_tools.words import clean, is_plain

STREAMS = ("rec", "evt", "ivl", "log")
MAX_BYTES = 8192
_DEVICE = "[A-Za-z0-9-][A-Za-z0-9_-]{0,19}"
_TOPIC = re.compile("evmeter/v1/(%s)/(.{1,64})" % _DEVICE, re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)
_HIGHEST_SEQ = 2**32 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_KINDS = ("begin", "complete", "tariff")


class MessageError(ValueError):
    """The message cannot be attributed or stored; the text says why."""


class Untrusted(MessageError):
    """The key was never enrolled: nothing is stored, nothing acknowledged."""


def is_device(text):
    """Whether a text can be a device's id."""
    return re.fullmatch(_DEVICE, text, re.ASCII) is not None


def split_topic(topic):
    """(device, rest) of a topic of the contract. Raises MessageError."""
    found = _TOPIC.fullmatch(topic)
    if not found:
        raise MessageError("topic %r is not of the contract" % topic[:80])
    return found[1], found[2]


def _no_constant(name):
    raise ValueError("%s is no number" % name)


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def _parse(text):
    if text[:1] == "{":
        message, end = _JSON.raw_decode(text)  # without a look for white space
        if end == len(text):
            return message
    return _JSON.decode(text)


def _text(message, name, longest):
    value = message.get(name)
    if not is_plain(value, longest):
        raise MessageError("%s must be a text of at most %d characters (printable ASCII)"
                           % (name, longest))
    return value


def read(device, stream, payload, trusted):
    """The durable message as an Entry with its verdict.

    `trusted` is Store.trusted(). Raises MessageError, Untrusted.
    """
    if len(payload) > MAX_BYTES:
        raise MessageError("%d bytes; allowed: %d" % (len(payload), MAX_BYTES))
    try:
        message = _parse(payload.decode())
    except (ValueError, RecursionError):
        raise MessageError("not JSON") from None
    if not isinstance(message, dict) or message.get("v") != 1:
        raise MessageError("not a message of version 1")
    key_id, seq = message.get("k"), message.get("seq")
    spki = trusted.get((device, key_id)) if isinstance(key_id, str) else None
    if spki is None and not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id)):
        raise MessageError("k must be 8 hex digits")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 < seq <= _HIGHEST_SEQ:
        raise MessageError("seq must be a whole number from 1 to %d" % _HIGHEST_SEQ)
    if spki is None:
        raise Untrusted("key %s of %s was never enrolled" % (key_id, device))
    sid = _text(message, "sid", 36)
    facts = {}
    if stream == "rec":
        kind = message.get("kind")
        if kind not in _KINDS:
            kind = _text(message, "kind", 8)
        faults = _record_faults(message, kind, sid, spki, facts)
    else:
        kind = message.get("ev", stream)
        faults = [] if is_plain(kind, 32) else ["ev is no short text"]
        kind = kind if not faults else stream
        if stream == "log":
            text = bytes(payload).decode("utf-8", "surrogateescape")
            reasons = check_entry(text, parse_key(spki)).reasons
            faults += ["audit entry: " + reason for reason in reasons]
            if not faults and kind == KEY_CHANGE:
                facts["new_key"] = message["new_k"], parse_key(message["new_spki"]).hex()
    if faults:
        return Entry(device, key_id, seq, stream, sid, kind, bytes(payload), "bad",
                     clean("; ".join(faults)))
    return Entry(device, key_id, seq, stream, sid, kind, bytes(payload), facts=facts)


def _record_faults(message, kind, sid, spki, facts):
    text = message.get("ocmf")
    if not isinstance(text, str) or kind not in _KINDS:
        return ["no record of a known kind"]
    plain = plain_record(text)
    if plain and plain.kind == kind and plain.session == sid and _is_signed(plain, spki):
        facts.update(_plain_facts(plain))
        return []
    verdict = check_record(text, spki)
    faults = list(verdict.reasons)
    if verdict.signature is not True and not faults:
        faults.append("signature not proven")
    if verdict.kind != kind:
        faults.append("the record is %s, the message says %s" % (verdict.kind, kind))
    if verdict.payload and verdict.payload.get("ZS") != sid:
        # only what is signed says whose it is
        faults.append("the record names no session" if "ZS" not in verdict.payload
                      else "the record is of another session")
    if not faults and kind != "tariff":
        facts.update(_session_facts(verdict))
    return faults


def _is_signed(plain, spki):
    try:
        check_der(plain.signed, plain.signature, spki)
    except RecordError:
        return False
    return True


def _plain_facts(plain):
    """_session_facts of a plain record."""
    facts = {"state": "open", "begin_ms": _unix_ms(plain.begin), "begin_mwh": plain.begin_mwh}
    if plain.kind == "complete":
        facts.update(
            state="complete", end_ms=_unix_ms(plain.end), gap_mwh=plain.gap_mwh,
            energy_mwh=plain.end_mwh - plain.begin_mwh, billable=plain.billable, tx=plain.tx)
    return facts


def _session_facts(verdict):
    """What a sound begin or complete record says of its session: columns of its row."""
    begin, end = verdict.readings[0], verdict.readings[-1]
    facts = {"state": "open", "begin_ms": _unix_ms(begin.time), "begin_mwh": begin.mwh}
    if verdict.kind == "complete":
        facts.update(
            state="complete", end_ms=_unix_ms(end.time), energy_mwh=end.mwh - begin.mwh,
            gap_mwh=verdict.get("ZG") or 0, billable=verdict.get("ZB") != 0, tx=end.tx)
    return facts


def _unix_ms(time):
    """Of an aware datetime, exactly."""
    return (time - _EPOCH) // _MS
