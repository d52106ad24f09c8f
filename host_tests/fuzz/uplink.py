"""Bytes from the network: the broker's packets, the backend's acknowledgements."""

import json
import types

from changes import changed

from evmeter.uplink import link as link_module
from evmeter.uplink import mqtt
from evmeter.uplink.link import Link
from evmeter.uplink.mqtt import Session
from evmeter.uplink.publisher import parse_ack

KEY_ID = "a1b2c3d4"
HIGHEST = 70000
_ACK = {"v": 1, "k": KEY_ID, "cum": 3, "sel": [5, 7], "bad": [{"seq": 4}]}
_MOST_ACKED = 64
_MOST_PACKET = 4096
_MOST_DROPPED = 1 << 20
_SEEN = 512  # of a message that is too large
_SETTINGS = {"user": None, "password": None, "keepalive_s": 30, "host": "10.0.0.1", "port": 1883}
_NEVER = 100000  # looks at the line


def _is_number(value):
    return type(value) is int and 0 <= value <= HIGHEST


def _is_ack(told):
    """DESIGN.md 4.4, once more."""
    if not isinstance(told, dict) or told.get("k") != KEY_ID or not _is_number(told.get("cum")):
        return False
    sel, bad = told.get("sel", []), told.get("bad", [])
    return (isinstance(sel, list) and isinstance(bad, list) and len(sel) + len(bad) <= _MOST_ACKED
            and all(map(_is_number, sel))
            and all(isinstance(one, dict) and _is_number(one.get("seq")) for one in bad))


def ack(data):
    """The backend's acknowledgement: what is one is taken as it stands, anything else refused."""
    if data[:1] == b"\x01":
        data = changed(_ACK, data[1:]).encode()
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        told = None
    try:
        found = parse_ack(data, KEY_ID, HIGHEST)
    except (ValueError, RuntimeError):  # RuntimeError: nested too deep; so caught by the caller
        assert not _is_ack(told), "refused what is an acknowledgement"
        return
    assert _is_ack(told), "took what is none"
    assert found == (told["cum"], told.get("sel", []),
                     [one["seq"] for one in told.get("bad", [])]), "another acknowledgement"


class _Line:
    """The connection's other end: gives the bytes in pieces, takes what is sent."""

    def __init__(self):
        self.begin(b"", 1)

    def begin(self, data, piece):
        self.data = data
        self.piece = piece
        self.at = 0
        self.sent = bytearray()

    def receive(self, buffer):
        count = min(len(buffer), self.piece, len(self.data) - self.at)
        if not count:
            return None
        buffer[:count] = self.data[self.at:self.at + count]
        self.at += count
        return count

    def send(self, data):
        self.sent += data
        return len(data)


@types.coroutine
def _sleep_ms(ms):
    yield ms


async def _connected(host, port, timeout_ms):
    return None


_CLOCK = types.SimpleNamespace(ticks_ms=lambda: 0, ticks_diff=lambda end, start: end - start)
_LINE = _Line()
_LINK = None


def _link():
    """One Link for all inputs: its buffers are large."""
    global _LINK
    if _LINK is None:
        _LINK = Link()
        _LINK.connect = _connected
    _LINK.close()
    _LINK._receive, _LINK._transmit = _LINE.receive, _LINE.send
    return _LINK


def _head(data, at):
    """(length of the packet's head, of its body) at `at`; None: not all there; ValueError."""
    length = 0
    for index in range(4):
        if at + 1 + index >= len(data):
            return None
        byte = data[at + 1 + index]
        length += (byte & 127) * 128 ** index
        if byte < 128:
            if length > (_MOST_DROPPED if data[at] >> 4 == 3 else _MOST_PACKET):
                raise ValueError("too long")
            return 2 + index, length
    raise ValueError("a length of five bytes")


def _message(first, body):
    """(topic, payload, PUBACK) of a PUBLISH. ValueError: it is none that was asked for."""
    qos = first >> 1 & 3
    if qos > 1 or len(body) < 2:
        raise ValueError("QoS 2, or no topic")
    end = 2 + int.from_bytes(body[:2], "big")
    rest = end + 2 * qos
    if len(body) < rest:
        raise ValueError("cut short")
    return bytes(body[2:end]), bytes(body[rest:]), b"\x40\x02" + body[end:rest] if qos else b""


def _meaning(data):
    """(messages, PUBACKs, whether it goes on) of what the broker says, by MQTT 3.1.1."""
    messages, acks, at = [], b"", 0
    try:
        while True:
            head = _head(data, at)
            if head is None or at + sum(head) > len(data):
                if head and head[1] > _MOST_PACKET and at + _SEEN <= len(data):
                    acks += _message(data[at], data[at + head[0]:at + _SEEN])[2]
                return messages, acks, True
            if head[1] > _MOST_PACKET:  # acknowledged and passed over
                acks += _message(data[at], data[at + head[0]:at + _SEEN])[2]
                at += sum(head)
                continue
            first, body = data[at], data[at + head[0]:at + sum(head)]
            if first >> 4 == 3:
                topic, payload, puback = _message(first, body)
                messages.append((topic, payload))
                acks += puback
            elif first not in (0x40, 0x90, 0xD0):
                raise ValueError("a packet for a broker")
            elif first == 0x90 and body[-1:] == b"\x80":
                raise ValueError("refused")
            at += sum(head)
    except ValueError:
        return messages, acks, False


def _greeted(session, answer):
    """Await the CONNACK; whether the session stands."""
    coroutine = session.connect()
    try:
        for _ in range(len(answer) + 2):
            coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


def mqtt_in(data):
    """What a broker sends, cut into pieces as the first byte says: messages come out whole, in
    their order and with their PUBACK, or the connection ends with an OSError."""
    before = mqtt.time, link_module.time, mqtt.asyncio
    mqtt.time = link_module.time = _CLOCK
    mqtt.asyncio = types.SimpleNamespace(sleep_ms=_sleep_ms)
    try:
        _take(data)
    finally:
        mqtt.time, link_module.time, mqtt.asyncio = before


def _take(data):
    if not data:
        return
    piece = 1 + data[0] % 64 + len(data) // 64 if data[0] < 0xC0 else 5000
    greets = bool(data[0] & 1)
    data = data[1:]
    got = []
    link = _link()
    session = Session(link, "demo-0001", _SETTINGS, b"avail",
                      lambda topic, payload: got.append((bytes(topic), bytes(payload))))
    if not greets:
        data = b"\x20\x02\x00\x00" + data
    _LINE.begin(data, piece)
    good = data[:2] == b"\x20\x02" and data[3:4] == b"\0"
    try:
        assert _greeted(session, data) == good, "a CONNACK that is none"
    except OSError:
        assert not good, "refused a good CONNACK"
    if not good:
        return
    data = data[4:]
    _LINE.sent.clear()
    messages, acks, goes_on = _meaning(data)
    try:
        for _ in range(_NEVER):
            at = _LINE.at, len(got), link._have
            session.poll()
            if at == (_LINE.at, len(got), link._have):
                break
        else:
            raise AssertionError("never comes to an end")
        assert goes_on, "went on after what ends a connection"
        assert _LINE.sent == acks, "other PUBACKs"
    except OSError:
        assert not goes_on, "ended a good connection"
    assert got == messages, "other messages"
