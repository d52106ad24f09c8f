"""Bytes from flash and from records: checkpoints, journal segments, OCMF texts and keys."""

import binascii
import hashlib
import json
import struct
from decimal import Decimal

from changes import changed
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter.ledger.journal import MAX_PAYLOAD, Journal, JournalError
from evmeter.session.session import unpack
from evmeter_tools.verify.audit import check_entry
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import judge
from evmeter_tools.verify.parse import KeyFormatError, key_id, parse_key
from fakes.memory_store import MemoryNvs, MemoryStore

_SECRET = ec.derive_private_key(int.from_bytes(bytes(range(7, 39)), "big"), ec.SECP256R1())
SPKI = _SECRET.public_key().public_bytes(serialization.Encoding.DER,
                                         serialization.PublicFormat.SubjectPublicKeyInfo)
_SPKI_HEAD = SPKI[:27]
_READING = {"TM": "2026-03-01T12:00:00,000+0000 I", "TX": "B", "RV": 1234.567,
            "RI": "01-00:01.08.00*FF", "RU": "kWh", "RT": "AC", "EF": "", "ST": "G"}
_COMPLETE = {
    "FV": "1.0", "GI": "evmeter", "GS": "demo-0001", "GV": "0.1.0", "PG": "T2", "MV": "Eastron",
    "MM": "SDM120", "MS": "21034567", "IS": False, "IL": "NONE", "IF": [], "IT": "NONE", "ID": "",
    "RD": [_READING,
           dict(_READING, TM="2026-03-01T12:30:00,000+0000 S", TX="T", RV=1235.1),
           dict(_READING, TM="2026-03-01T13:00:00,000+0000 U", TX="E", RV=1236.25)],
    "ZP": "0" * 32, "ZS": "demo-0001-000001", "ZB": 1, "ZG": 0}
_MORE = ("T1", "F1", "X", "T", "E", "P", "G", "M", "O", "1.4", "0.4", "kWh", "Wh", 1234.5,
         -1.5, 1e300, "2026-02-30T12:00:00,000+0000 I", "2026-03-01T12:00:00,000+0100 I",
         "RFID_PLAIN", ["RFID_PLAIN", "RFID_PSK"], [_READING], "DENIED",
         "01-00:02.08.00*FF", "E", "t", "DC")
_NAMES = ("FV", "GI", "PG", "RD", "TM", "TX", "RV", "RI", "RU", "ST", "EF", "LC", "TT", "CF", "ZX",
          "LI")
_CHECKPOINT_BYTES = 70
_CHECKPOINT_VERSION = b"\x02"
_FRAME_BYTES = 29  # around a frame's payload
_MOST_FRAMES = 12


def signed(payload):
    """A record of this payload text, rightly signed."""
    der = _SECRET.sign(payload.encode("utf-8", "surrogatepass"),
                       ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return 'OCMF|%s|{"SA":"ECDSA-secp256r1-SHA256","SD":"%s"}' % (payload, der.hex())


_RECORDS = [signed(json.dumps(payload, separators=(",", ":")))
            for payload in (_COMPLETE, dict(_COMPLETE, ZG="x"))]
_SIGNED = [record.split("|")[1] for record in _RECORDS]


def _check_verdict(verdict):
    """What S.A.F.E. must be able to rely on, said with other code."""
    assert all(isinstance(reason, str) and reason for reason in verdict.reasons), "no words"
    if verdict.ok:
        json.loads(verdict.signed)
        assert verdict.signature is True and verdict.readings
    if not verdict.complete:
        return
    rows = json.loads(verdict.signed, parse_float=Decimal)["RD"]
    letters = [row.get("TX", "") for row in rows]
    assert letters[0] == "B" and letters[-1] in ("E", "L", "R", "A", "P") and len(letters) > 1
    assert rows[0]["ST"] == rows[-1]["ST"] == "G", "not believed"
    assert Decimal(rows[0]["RV"]) <= Decimal(rows[-1]["RV"]), "the register goes back"


def ocmf(data):
    """A record's text: right for nothing but the bytes that were signed."""
    if data[:1] == b"\x01":
        payload = changed(_COMPLETE, data[1:], _MORE, _NAMES).replace("|", " ")
        verdict = check_record(signed(payload), SPKI)
        assert verdict.signature or verdict.payload is None, "a good signature was refused"
        _check_verdict(verdict)
        return
    text = data.decode("utf-8", "surrogateescape" if data[:1] == b"\x00" else "replace")
    verdict = check_record(text, SPKI)
    _check_verdict(verdict)
    if verdict.signature:
        assert text.split("|")[1] in _SIGNED, "a forged record was taken"


_ENTRY = {"ev": "meter_record", "v": 1, "ts": 1, "tq": "I", "k": key_id(SPKI), "seq": 7,
          "sid": "demo-0001-000001", "tx": "B",
          "meter_ocmf": signed(json.dumps(dict(_COMPLETE, ID="demo-0001-000001 4711"))),
          "meter_spki": SPKI.hex(), "new_k": key_id(SPKI), "new_spki": SPKI.hex()}
_IN_ENTRY = ("key_change", "E", signed("{}"), signed('{"RD":[{}]}'), signed('{"RD":[{"TX":"B"}]}'),
             signed(json.dumps(dict(_COMPLETE, ID="demo-0001-000001"))), "OCMF|{}|{}")


def _signed_entry(text):
    """An entry of this text, a JSON object, rightly signed; twice, as a change of the key is."""
    for name in ("sn", "sg"):
        text = text[:-1]
        der = _SECRET.sign(text.encode("utf-8", "surrogateescape"),
                           ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        text += ', "%s": "%s"}' % (name, der.hex())
    return text


_ENTRIES = [_signed_entry(json.dumps(dict(_ENTRY, ev=name)))
            for name in ("x", "key_change", "meter_record")]


def audit(data):
    """A signed audit entry: right for nothing but the bytes that were signed, whatever it says."""
    rightly = data[:1] == b"\x01"
    if rightly:
        text = _signed_entry(changed(_ENTRY, data[1:], _IN_ENTRY, tuple(_ENTRY)))
    else:
        text = data.decode("utf-8", "surrogateescape")
    entry = check_entry(text, SPKI)
    assert all(isinstance(reason, str) and reason for reason in entry.reasons), "no words"
    if entry.signature:
        assert rightly or text in _ENTRIES, "a forged entry was taken"
    elif rightly:
        assert not entry.message or "longer" in entry.reasons[0], "a good signature was refused"
    if entry.ok:
        assert json.loads(text)["k"] == key_id(SPKI), "another key's name"
        assert entry.new_key is None or json.loads(text)["ev"] == "key_change"
    report = judge([(_RECORDS[0], SPKI)], [(text, SPKI)], SPKI)
    assert not report.ok or entry.ok, "a bad entry does not show in the report"


def key(data):
    """A public key, as bytes or as text: a point on P-256 in its DER, or KeyFormatError."""
    text = data.decode("utf-8", "replace")
    for given in (data, text):
        try:
            found = parse_key(given)
        except KeyFormatError as error:
            assert str(error)
            assert given not in (SPKI, SPKI.hex()), "refused a good key"
            continue
        assert len(found) == 91 and found[:27] == _SPKI_HEAD, "not the DER of a P-256 key"
        _on_curve(int.from_bytes(found[27:59], "big"), int.from_bytes(found[59:], "big"))
        assert parse_key(found.hex()) == found


def _on_curve(x, y):
    p = 2 ** 256 - 2 ** 224 + 2 ** 192 + 2 ** 96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    assert x < p and y < p and (y * y - x * x * x + 3 * x - b) % p == 0, "not on the curve"


def checkpoint(data):
    """The open session's checkpoint: each field from its place, or none at all."""
    if data[:1] == b"\xff":  # a length and a version that mutation need not find
        data = _CHECKPOINT_VERSION + data[1:_CHECKPOINT_BYTES].ljust(_CHECKPOINT_BYTES - 1, b"\0")
    elif data[:1] == b"\xfe":  # any fields
        fields = b"".join(hashlib.sha256(data + bytes((n,))).digest() for n in range(3))
        data = bytearray(_CHECKPOINT_VERSION + fields[:_CHECKPOINT_BYTES - 1])
        for at in (26, 43):  # the clock's quality is one of four letters
            data[at] = b"UISR"[data[at] & 3]
        data = bytes(data)
    found = unpack(data)
    good = (len(data) == _CHECKPOINT_BYTES and data[:1] == _CHECKPOINT_VERSION
            and data[26] in b"UISR" and data[43] in b"UISR")
    if found is None:
        assert not good, "refused a checkpoint"
        return
    assert good, "took what is none"

    def number(at, length, is_signed=False):
        return int.from_bytes(data[at:at + length], "little", signed=is_signed)

    assert (found.begin_seq, found.page) == (number(2, 4), number(6, 4)), "begin"
    assert (found.begin_mwh, found.begin_unix_ms) == (number(10, 8, True), number(18, 8, True))
    assert (found.last_mwh, found.last_unix_ms) == (number(27, 8, True), number(35, 8, True))
    assert (ord(found.begin_quality), ord(found.last_quality)) == (data[26], data[43]), "quality"
    assert (found.gap_mwh, found.duration_s) == (number(44, 8, True), number(52, 4)), "gap"
    assert found.duration_pm_s == number(56, 2, True), "uncertainty"
    assert (found.meter, found.jump_mwh) == (number(58, 4), number(62, 8, True)), "meter"
    assert found.charged == bool(data[1] & 1) and bool(found.spoiled) == bool(data[1] & 2)
    assert unpack(found.pack()).pack() == found.pack(), "not the same again"


def _segments(data):
    """Segments of a journal: frames in a chain, with what `data` does to them."""
    segments, seq, previous, at = {}, 1 + data[0] % 4, bytes(16), 1
    body = b""
    first = seq
    for _ in range(_MOST_FRAMES):
        if at + 4 > len(data):
            break
        what, size, kind, value = data[at:at + 4]
        at += 4
        if what >= 0xF0:  # bytes that are no frame
            body += data[at:at + size % 64]
            at += size % 64
            continue
        if what >= 0xE0 and body:  # the next segment
            segments[first] = body
            body, first = b"", seq
        if what >= 0xD0:
            seq += value
        frame = struct.pack("<HHIB", 0x5AA5, size * (11 if what & 1 and not value else 1),
                            seq, kind % 6 if what & 2 else 1 + kind % 4)
        length = struct.unpack_from("<H", frame, 2)[0]
        frame += (previous if what & 4 or not value else bytes(16)) + bytes((value,)) * length
        frame += struct.pack("<I", binascii.crc32(frame))
        if 0xC0 <= what < 0xD0:  # damage
            place = value % len(frame)
            frame = frame[:place] + bytes((frame[place] ^ (kind | 1),)) + frame[place + 1:]
        elif 0xB8 <= what < 0xC0:  # cut short
            frame = frame[:value]
        body += frame
        previous = hashlib.sha256(frame).digest()[:16]
        seq += 1
    if body:
        segments[first] = body
    return segments


def _frames(body):
    """The whole frames of a segment: [(sequence, type, payload, hash)]."""
    found = []
    at = 0
    while at >= 0 and len(body) - at >= _FRAME_BYTES:
        end = at + _FRAME_BYTES + int.from_bytes(body[at + 2:at + 4], "little")
        frame = body[at:end]
        if (frame[:2] != b"\xa5\x5a" or len(frame) != end - at or not frame[8]
                or len(frame) > MAX_PAYLOAD + _FRAME_BYTES
                or binascii.crc32(frame[:-4]).to_bytes(4, "little") != frame[-4:]):
            at = body.find(b"\xa5\x5a", at + 1)
            continue
        found.append((int.from_bytes(frame[4:8], "little"), frame[8], frame[25:-4],
                      hashlib.sha256(frame).digest()[:16]))
        at = end
    return found, at == len(body)


_BUFFER = bytearray(MAX_PAYLOAD)


def journal(data):
    """A journal of any bytes: no number of its newest whole segment is given out again, what is
    read is what stands there, and a frame that is added can be read."""
    if not data:
        return
    store = MemoryStore(capacity=64, segment_bytes=1 << 20)
    store.data = _segments(data)
    before = {first: _frames(body) for first, body in store.data.items()}
    newest = [before[first] for first in sorted(before) if before[first][0]][-1:]
    it = Journal(store, MemoryNvs(), lambda kind, payload: {})
    it.open()
    last = newest[0][0][-1] if newest else (0, 0, b"", bytes(16))
    assert it.next_seq == last[0] + 1 and it.hash == last[3], "numbering goes on elsewhere"
    for first in store.segments:
        for seq, *_ in before[first][0][-2:]:
            _check_read(it, store.segments, before, seq)
    if it.next_seq < 2 ** 32:
        seq = it.append(1, data[:8])
        assert seq == last[0] + 1 and it.read(seq, _BUFFER) == (1, len(data[:8])), "not added"
        assert _BUFFER[:len(data[:8])] == data[:8]


def _check_read(it, segments, before, seq):
    """Reading `seq` gives what stands in the segment where the numbering puts it."""
    if not 0 < seq < it.next_seq:
        return
    place = max((first for first in segments if first <= seq), default=None)
    rows = before[place][0] if place is not None else []
    expected = None
    for number, kind, payload, _ in rows:
        if number > seq:
            break
        if number == seq:
            expected = kind, payload
            break
    try:
        kind, length = it.read(seq, _BUFFER)
    except JournalError:
        assert expected is None, "a frame that is there was not read"
        return
    assert expected == (kind, bytes(_BUFFER[:length])), "another frame"
