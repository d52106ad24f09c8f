"""MQTT 3.1.1 over a Link, with umqtt.simple as the protocol client.

umqtt.simple writes and parses the packets; it never touches a socket. Its own waiting has no
deadlines (after the first byte it switches the socket to blocking, which on the ESP32 is for
ever), so that every answer it would wait for is handed to it at once, and the broker's true answer
is taken here when it comes. What comes in is handed to it only as a whole packet.

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
_MOST_QUEUED = const(2640)  # a packet taken adds its PUBACK
_MOST_PACKETS = const(8)  # taken at once, so that other tasks have their turn
_REFUSED = ("", "protocol version", "client id", "server unavailable", "user or password",
            "not authorised")


class _Stream:
    """What umqtt.simple takes for its socket, and while it connects for the module `socket`:
    writes go to the link's buffer, reads come from a packet or an answer prepared here."""

    def __init__(self, link):
        self.write = link.queue
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

    def socket(self, *_):
        return self

    def getaddrinfo(self, *_):
        return ((None,),)

    def ignore(self, *_):
        """The link connects, waits and closes."""

    connect = setblocking = settimeout = close = ignore


class Session:
    """One client session that the broker keeps (clean_session=False).

    `on_message(topic, payload)` gets each message after its PUBACK is on the way, so that one it
    fails on does not come again for ever. For the same reason one that is too large gets a PUBACK;
    `oversized` counts those. Errors are OSError. `flush` sends of what is queued what the socket
    takes and returns whether nothing is left; `close` drops the connection, whereupon the broker
    sends the last will.
    """

    def __init__(self, link, client_id, settings, will_topic, on_message):
        user, password = settings["user"], settings["password"]
        self._link = link
        self.flush = link.flush
        self.close = link.close
        self._stream = _Stream(link)
        self._on_message = on_message
        self._message = None
        self.oversized = 0
        self._keepalive_ms = settings["keepalive_s"] * 1000
        self._client = client = umqtt.MQTTClient(
            client_id.encode(), settings["host"], settings["port"],
            user.encode() if user else None, (password or "").encode() if user else None,
            settings["keepalive_s"])
        client.set_last_will(will_topic, b"offline", True, 1)
        client.set_callback(self._heard)
        self._pinged_ms = None
        self._asked = 0  # subscriptions that the broker has not answered, the last of them
        self._asked_ms = 0

    async def connect(self):
        """Connect and await the broker's answer. Raises OSError with the reason."""
        link, client = self._link, self._client
        await link.connect(client.server, client.port, _ANSWER_MS)
        kept = umqtt.socket
        umqtt.socket = self._stream
        try:
            self._stream.give(b"\x20\x02\x00\x00")
            client.connect(False)
        finally:
            umqtt.socket = kept
        self._pinged_ms = None
        self._asked = 0
        while not link.flush():  # with TLS the handshake, which has a limit of its own
            await asyncio.sleep_ms(_STEP_MS)
        begun = time.ticks_ms()
        while True:
            packet = link.poll()
            if packet is not None:
                break
            if time.ticks_diff(time.ticks_ms(), begun) > _ANSWER_MS:
                raise LinkError("the broker did not answer within %d ms" % _ANSWER_MS)
            await asyncio.sleep_ms(_STEP_MS)
        if packet[0] != _CONNACK or packet[1] != 2:
            raise LinkError("what answers there is no MQTT broker")
        code = packet[3]
        link.consume(4)
        if code:
            reason = _REFUSED[code] if code < len(_REFUSED) else "code %d" % code
            raise LinkError("the broker refused the connection: %s" % reason)

    def subscribe(self, topic, pid):
        """Subscribe with QoS 1. A refusal, or no answer within 5 s, comes as LinkError from
        `poll`."""
        self._asked += 1
        self._asked_ms = time.ticks_ms()
        self._client.pid = pid - 1
        self._stream.give(struct.pack("!BBHB", _SUBACK, 3, pid, 1))
        self._client.subscribe(topic, 1)
        self._link.flush()

    def payload_area(self, topic):
        """Where a payload for `topic` may be put, to be published from there uncopied; only while
        nothing is queued."""
        return self._link.tail(7 + len(topic))  # type, 2 length bytes, topic length, packet id

    def publish(self, topic, payload, qos, retain=False, pid=0, dup=False):
        """Send a message without awaiting its PUBACK. `pid` 1 to 65535 for QoS 1."""
        client, link = self._client, self._link
        start = link.queued
        if qos:
            client.pid = pid - 1
            self._stream.give(struct.pack("!BBH", _PUBACK, 2, pid))
        client.publish(topic, payload, retain, qos)
        if dup:
            link.tail(start)[0] |= _DUP
        link.flush()

    def poll(self):
        """Take the packets that are there, keep the connection alive. Returns whether there were
        any. Raises OSError where the connection is dead."""
        link = self._link
        link.flush()
        taken = 0
        while taken < _MOST_PACKETS and link.queued < _MOST_QUEUED:
            packet = link.poll()
            if packet is None:
                break
            self._take(packet)
            taken += 1
        now = time.ticks_ms()
        if self._asked and time.ticks_diff(now, self._asked_ms) > _ANSWER_MS:
            raise LinkError("no answer to a subscription")
        if self._pinged_ms is not None:
            if time.ticks_diff(now, self._pinged_ms) > _ANSWER_MS:
                raise LinkError("no answer to a ping")
        elif (time.ticks_diff(now, link.last_tx_ms) > self._keepalive_ms // 2
                or time.ticks_diff(now, link.last_rx_ms) > self._keepalive_ms // 2):
            self._pinged_ms = now
            self._client.ping()
        link.flush()
        return taken > 0

    def _heard(self, topic, payload):
        self._message = topic, payload

    def _pass_over(self, packet):
        """Acknowledge a message that is too large, and drop it."""
        link = self._link
        self.oversized += 1
        if packet[0] & 6:
            at = 2
            while packet[at - 1] & 0x80:  # the length goes on
                at += 1
            at += 2 + (packet[at] << 8 | packet[at + 1])
            if at + 2 > len(packet):
                raise LinkError("topic of %d bytes" % at)
            link.queue(b"\x40\x02")
            link.queue(packet[at : at + 2])
        link.consume(len(packet) + link.over)

    def _take(self, packet):
        kind = packet[0]
        link = self._link
        if kind & 0xF0 == _PUBLISH:
            if kind & 6 > 2:
                raise LinkError("QoS 2 was not asked for")
            if link.over:
                self._pass_over(packet)
                return
            self._stream.give(packet)
            self._client.wait_msg()  # reads by lengths that _Stream.read checks
        elif kind == _PINGRESP:
            self._pinged_ms = None
        elif kind == _SUBACK:
            self._asked = max(0, self._asked - 1)
            if packet[len(packet) - 1] == 0x80:
                raise LinkError("the broker refused a subscription; has this user the right?")
        elif kind != _PUBACK:
            raise LinkError("unexpected packet 0x%02x" % kind)
        link.consume(len(packet))
        if self._message:
            topic, payload = self._message
            self._message = None
            link.flush()
            self._on_message(topic, payload)
