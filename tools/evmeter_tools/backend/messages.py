"""Durable messages of the MQTT contract v1: what a collector accepts, and why not."""

import json
import re

from evmeter_tools.backend.store import Entry
from evmeter_tools.verify.audit import check_entry
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.parse import KEY_CHANGE, parse_key

STREAMS = ("rec", "evt", "ivl", "log")
MAX_BYTES = 8192
_TOPIC = re.compile(r"evmeter/v1/([A-Za-z0-9-][A-Za-z0-9_-]{0,19})/(.{1,64})", re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)
_HIGHEST_SEQ = 2**32 - 1
_KINDS = ("begin", "complete", "tariff")


class MessageError(ValueError):
    """The message cannot be attributed or stored; the text says why."""


class Untrusted(MessageError):
    """The key was never enrolled: nothing is stored, nothing acknowledged."""


def split_topic(topic):
    """(device, rest) of a topic of the contract. Raises MessageError."""
    found = _TOPIC.fullmatch(topic)
    if not found:
        raise MessageError("topic %r is not of the contract" % topic[:80])
    return found[1], found[2]


def _no_constant(name):
    raise ValueError("%s is no number" % name)


def _text(message, name, longest):
    value = message.get(name)
    if not isinstance(value, str) or len(value) > longest:
        raise MessageError("%s must be a text of at most %d characters" % (name, longest))
    return value


def read(device, stream, payload, trusted):
    """The durable message as an Entry with its verdict.

    `trusted` is Store.trusted(). Raises MessageError, Untrusted.
    """
    if len(payload) > MAX_BYTES:
        raise MessageError("%d bytes; allowed: %d" % (len(payload), MAX_BYTES))
    try:
        message = json.loads(payload, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MessageError("not JSON") from None
    if not isinstance(message, dict) or message.get("v") != 1:
        raise MessageError("not a message of version 1")
    key_id, seq = message.get("k"), message.get("seq")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise MessageError("k must be 8 hex digits")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 < seq <= _HIGHEST_SEQ:
        raise MessageError("seq must be a whole number from 1 to %d" % _HIGHEST_SEQ)
    spki = trusted.get((device, key_id))
    if spki is None:
        raise Untrusted("key %s of %s was never enrolled" % (key_id, device))
    sid = _text(message, "sid", 36)
    if stream == "rec":
        kind = _text(message, "kind", 8)
        faults = _record_faults(message, kind, sid, spki)
    else:
        kind = message.get("ev", stream)
        faults = [] if isinstance(kind, str) and len(kind) <= 32 else ["ev is no short text"]
        kind = kind if not faults else stream
        if stream == "log":
            text = bytes(payload).decode("utf-8", "surrogateescape")
            reasons = check_entry(text, parse_key(spki)).reasons
            faults += ["audit entry: " + reason for reason in reasons]
    return Entry(device, key_id, seq, stream, sid, kind, bytes(payload),
                 "bad" if faults else "ok", "; ".join(faults))


def new_key(entry):
    """(key id, SPKI hex) of the key that a sound audit entry announces for its device, or None."""
    if entry.stream != "log" or entry.kind != KEY_CHANGE or entry.verdict != "ok":
        return None
    message = json.loads(entry.payload)
    return message["new_k"], message["new_spki"]


def _record_faults(message, kind, sid, spki):
    text = message.get("ocmf")
    if not isinstance(text, str) or kind not in _KINDS:
        return ["no record of a known kind"]
    verdict = check_record(text, spki)
    faults = list(verdict.reasons)
    if verdict.signature is not True and not faults:
        faults.append("signature not proven")
    if verdict.kind != kind:
        faults.append("the record is %s, the message says %s" % (verdict.kind, kind))
    if verdict.payload and verdict.payload.get("ZS") not in (None, sid):
        faults.append("the record is of another session")
    return faults
