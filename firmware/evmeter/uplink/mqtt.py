"""MQTT 3.1.1 over a Link, with umqtt.simple as the protocol client.

umqtt.simple writes and parses the packets; it never touches a socket. Its own waiting has no
deadlines (after the first byte it switches the socket to blocking, which on the ESP32 is for
ever), so that every answer it would wait for is handed to it at once, and the broker's true answer
is awaited here. What comes in is handed to it only as a whole packet.

Its seam is the name `socket` in its module: `connect` makes its socket there. Works with
umqtt.simple 1.3.4 (whose `connect` takes no timeout) to 1.8.0.
"""

import asyncio
import struct
import time

import umqtt.simple as umqtt
from micropython import const

from evmeter.uplink.link import LinkError

_CONNACK = const(0x20)
_PUBLISH = const(0x30)
_PUBACK = const(0x40)
_SUBACK = const(0x90)
_PINGRESP = const(0xD0)
_DUP = const(8)
_STEP_MS = const(5)
_ANSWER_MS = const(5000)
_REFUSED = ("", "protocol version", "client id", "server unavailable", "user or password",
            "not authorised")


class _Stream:
    """What umqtt.simple takes for its socket: writes go to the link's buffer, reads come from a
    packet or an answer prepared here."""

    def __init__(self, link):
        self._link = link
        self._data = b""
        self._at = 0

    def give(self, data):
        self._data = data
        self._at = 0

    def read(self, count):
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise LinkError("packet shorter than it says")
        piece = bytes(self._data[self._at : end])
        self._at = end
        return piece

    def write(self, data, length=None):
        self._link.queue(data, length)
        return len(data)

    def setblocking(self, flag):
        """The link decides how to wait."""

    settimeout = connect = setblocking

    def close(self):
        self._link.close()


class _Sockets:
    """Stands for the module `socket` inside umqtt.simple while it connects."""

    def __init__(self, stream):
        self._stream = stream

    def socket(self, *_):
        return self._stream

    def getaddrinfo(self, host, port, *_):
        return ((None, None, None, None, (host, port)),)


class Session:
    """One client session that the broker keeps (clean_session=False).

    `on_message(topic, payload)` gets each message. Errors are OSError.
    """

    def __init__(self, link, client_id, settings, will_topic, on_message):
        user, password = settings["user"], settings["password"]
        self._link = link
        self._stream = _Stream(link)
        self._host = settings["host"]
        self._port = settings["port"]
        self._keepalive_ms = settings["keepalive_s"] * 1000
        self._client = umqtt.MQTTClient(
            client_id.encode(), self._host, self._port, user.encode() if user else None,
            (password or "").encode() if user else None, settings["keepalive_s"])
        self._client.set_last_will(will_topic, b"offline", True, 1)
        self._client.set_callback(on_message)
        self._last_tx_ms = 0
        self._pinged_ms = None

    async def connect(self):
        """Connect and await the broker's answer. Raises OSError with the reason."""
        link, client = self._link, self._client
        await link.connect(self._host, self._port, _ANSWER_MS)
        kept = umqtt.socket
        umqtt.socket = _Sockets(self._stream)
        try:
            self._stream.give(b"\x20\x02\x00\x00")
            client.connect(False)
        finally:
            umqtt.socket = kept
        self._pinged_ms = None
        await self._flush()
        packet = await self._answer(_CONNACK, 4)
        code = packet[3]
        if code:
            reason = _REFUSED[code] if code < len(_REFUSED) else "code %d" % code
            raise LinkError("the broker refused the connection: %s" % reason)

    async def _flush(self):
        await self._link.flush()
        self._last_tx_ms = time.ticks_ms()

    async def _answer(self, kind, length):
        """Await the packet `kind`; messages that come before it are delivered."""
        begun = time.ticks_ms()
        while time.ticks_diff(time.ticks_ms(), begun) < _ANSWER_MS:
            packet = self._link.poll()
            if packet is None:
                await asyncio.sleep_ms(_STEP_MS)
                continue
            if packet[0] == kind:
                if len(packet) != length:
                    raise LinkError("malformed answer from the broker")
                answer = bytes(packet)
                self._link.consume(length)
                return answer
            self._take(packet)
        raise LinkError("the broker did not answer within %d ms" % _ANSWER_MS)

    async def subscribe(self, topic):
        """Subscribe with QoS 1. Raises OSError, also where the broker refuses."""
        client = self._client
        pid = client.pid = client.pid % 0x7FFF
        answer = struct.pack("!BBHB", _SUBACK, 3, pid + 1, 1)
        self._stream.give(answer)
        client.subscribe(topic, 1)
        await self._flush()
        given = await self._answer(_SUBACK, 5)
        if given[4] == 0x80:
            raise LinkError("the broker refused the subscription to %s" % topic.decode())

    async def publish(self, topic, payload, qos, retain=False, pid=0, dup=False):
        """Send a message without awaiting its PUBACK. `pid` 1 to 65535 for QoS 1."""
        client, link = self._client, self._link
        start = link.queued
        if qos:
            client.pid = pid - 1
            self._stream.give(struct.pack("!BBH", _PUBACK, 2, pid))
        client.publish(topic, payload, retain, qos)
        if dup:
            link.mark(start, _DUP)
        await self._flush()

    async def poll(self):
        """Take one packet if there is one; keep the connection alive. Returns True if there was
        one. Raises OSError where the connection is dead."""
        packet = self._link.poll()
        if packet is not None:
            self._take(packet)
            if self._link.queued:
                await self._flush()
            return True
        now = time.ticks_ms()
        if self._pinged_ms is not None:
            if time.ticks_diff(now, self._pinged_ms) > _ANSWER_MS:
                raise LinkError("no answer to a ping")
        elif (time.ticks_diff(now, self._last_tx_ms) > self._keepalive_ms // 2
                or time.ticks_diff(now, self._link.last_rx_ms) > self._keepalive_ms):
            self._client.ping()
            self._pinged_ms = now
            await self._flush()
        return False

    def _take(self, packet):
        kind = packet[0]
        length = len(packet)
        if kind & 0xF0 == _PUBLISH:
            if kind & 6 > 2:
                raise LinkError("QoS 2 was not asked for")
            self._stream.give(packet)
            try:
                self._client.wait_msg()
            except (IndexError, TypeError, ValueError) as error:
                raise LinkError("malformed message: %s" % error) from None
        elif kind == _PINGRESP:
            self._pinged_ms = None
        elif kind != _PUBACK and kind != _SUBACK:
            raise LinkError("unexpected packet 0x%02x" % kind)
        self._link.consume(length)

    def close(self):
        """Drop the connection; the broker then sends the last will."""
        self._link.close()
