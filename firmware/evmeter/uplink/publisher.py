"""The uplink task: live messages first, then the journal, in a window that only the backend moves.

A PUBACK says that a broker has a message, and brokers were seen to lose such messages; a frame
counts as delivered when the backend's own acknowledgement names it.
"""

import asyncio
import json
import os
import time

from micropython import const

from evmeter.ledger.journal import MAX_PAYLOAD, JournalError
from evmeter.system.log import log
from evmeter.uplink.link import Link
from evmeter.uplink.mqtt import Session

_STREAMS = ("", "rec", "evt", "ivl", "log")
_FIRST_PAUSE_MS = const(1000)
_LONGEST_PAUSE_MS = const(300000)
_RESEND_MS = const(10000)
_LONGEST_RESEND_MS = const(60000)
_STATUS_MS = const(300000)
_IDLE_TELEMETRY_MS = const(60000)
_BUSY_MS = const(200)  # so long after traffic the socket is looked at without a pause
_IDLE_STEP_MS = const(20)
_MOST_ACKED = const(64)
_LIVE_PID = const(32768)


def packet_id(seq):
    """The MQTT packet id of a durable frame: 1 to 32767; live messages have the others."""
    return seq % 32767 + 1


def parse_ack(payload, key_id, highest):
    """The backend's acknowledgement as (cum, sel, bad numbers).

    Raises ValueError where it is malformed, for another key, or names a number that was never
    published.
    """
    ack = json.loads(payload)
    if not isinstance(ack, dict) or ack.get("k") != key_id:
        raise ValueError("not an acknowledgement for this key")
    sel = ack.get("sel", [])
    bad = ack.get("bad", [])
    if not isinstance(sel, list) or not isinstance(bad, list):
        raise ValueError("sel and bad must be lists")
    if len(sel) + len(bad) > _MOST_ACKED:
        raise ValueError("more than %d numbers" % _MOST_ACKED)
    refused = []
    for entry in bad:
        if not isinstance(entry, dict):
            raise ValueError("bad must hold objects")
        refused.append(entry.get("seq"))
    cum = ack.get("cum")
    for seq in [cum] + sel + refused:
        if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= highest:
            raise ValueError("number %r was never published" % (seq,))
    return cum, sel, refused


class Uplink:
    """Runs for ever; `status_changed` asks for a status message, `charging` for dense telemetry.

    `monitor` gives the live messages (monitoring/status.py).
    """

    def __init__(self, settings, device_id, journal, clock, monitor, key_id, link=None):
        self._settings = settings
        self._root = ("evmeter/v1/%s/" % device_id).encode()
        self._journal = journal
        self._clock = clock
        self._monitor = monitor
        self._key_id = key_id
        self._topics = [self._root + stream.encode() for stream in _STREAMS]
        self._session = Session(link or Link(), device_id, settings, self._root + b"avail",
                                self._message)
        self._payload = bytearray(MAX_PAYLOAD)
        self._window = settings["window"]
        self._sent = []  # [sequence, sent at, resend after] of frames not yet confirmed
        self._next_seq = 0
        # What lay in the journal at the start may have been published before the reboot.
        self._published = journal.next_seq - 1
        self._live_pid = 0
        self._acked = False
        self._status_due = True
        self._status_ms = 0
        self._telemetry_ms = None
        self.charging = False
        self.online = False
        self.backend_online = False
        self.reconnects = 0
        self.resends = 0
        self.acks_refused = 0

    def status_changed(self):
        """Something that the status message tells has changed."""
        self._status_due = True

    async def run(self):
        """Connect, deliver, and on any failure begin again after a pause."""
        pause_ms = _FIRST_PAUSE_MS
        while True:
            began_ms = self._clock.mono_ms()
            try:
                await self._session.connect()
                await self._greet()
                await self._deliver()
            except OSError as error:
                log.warning("uplink: %s", error)
            self.online = self.backend_online = False
            self._session.close()
            self.reconnects += 1
            if self._clock.mono_ms() - began_ms > _LONGEST_PAUSE_MS:
                pause_ms = _FIRST_PAUSE_MS
            jitter_ms = pause_ms * os.urandom(1)[0] // 512
            await asyncio.sleep_ms(pause_ms + jitter_ms)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)

    async def _greet(self):
        session = self._session
        await self._live(b"avail", b"online")
        await self._live(b"info", self._monitor.info())
        await self._send_status()
        await session.subscribe(self._root + b"ack")
        await session.subscribe(b"evmeter/v1/_host/state")
        self.online = True
        self._sent = []
        self._next_seq = self._journal.cursor + 1

    async def _live(self, name, text, qos=1, retain=True):
        """Send a live message; its packet ids are 32768 to 65535."""
        self._live_pid = (self._live_pid + 1) % 32768
        payload = text if isinstance(text, bytes) else text.encode()
        await self._session.publish(self._root + name, payload, qos, retain,
                                    _LIVE_PID + self._live_pid)

    async def _send_status(self):
        self._status_due = False
        self._status_ms = self._clock.mono_ms()
        await self._live(b"status", self._monitor.status())
        for code, text in self._monitor.alarms():
            await self._live(b"alarm/" + code.encode(), text)

    async def _deliver(self):
        session = self._session
        busy_until = time.ticks_ms()
        while True:
            active = await session.poll()
            if self._acked:
                self._acked = False
                self._settle()
            if not active:
                active = await self._send_due()
            now = time.ticks_ms()
            if active:
                busy_until = time.ticks_add(now, _BUSY_MS)
            waiting = time.ticks_diff(busy_until, now) > 0
            await asyncio.sleep_ms(1 if waiting else _IDLE_STEP_MS)

    async def _send_due(self):
        """Send the most urgent thing that is due; returns whether something was sent."""
        now_ms = self._clock.mono_ms()
        if self._status_due or now_ms - self._status_ms >= _STATUS_MS:
            await self._send_status()
            return True
        if await self._send_telemetry(now_ms):
            return True
        if not self.backend_online:
            return False
        for entry in self._sent:
            if now_ms - entry[1] >= entry[2]:
                entry[1] = now_ms
                entry[2] = min(2 * entry[2], _LONGEST_RESEND_MS)
                self.resends += 1
                await self._send_frame(entry[0], True)
                return True
        if len(self._sent) >= self._window or self._next_seq >= self._journal.next_seq:
            return False
        seq = self._next_seq
        self._next_seq += 1
        if seq > self._journal.cursor:
            self._sent.append([seq, now_ms, _RESEND_MS])
            await self._send_frame(seq, seq <= self._published)
            self._published = max(self._published, seq)
        return True

    async def _send_frame(self, seq, dup):
        try:
            kind, length = self._journal.read(seq, self._payload)
        except JournalError as error:
            log.error("uplink: %s", error)
            self._sent = [entry for entry in self._sent if entry[0] != seq]
            return
        await self._session.publish(self._topics[kind], memoryview(self._payload)[:length], 1,
                                    False, packet_id(seq), dup)

    async def _send_telemetry(self, now_ms):
        every_ms = self._settings["telemetry_s"] * 1000 if self.charging else _IDLE_TELEMETRY_MS
        if self._telemetry_ms is not None and now_ms - self._telemetry_ms < every_ms:
            return False
        text = self._monitor.telemetry()
        if text is None:
            return False
        self._telemetry_ms = now_ms
        await self._live(b"tel", text, 0, False)
        return True

    def _settle(self):
        """Forget the frames that are confirmed now."""
        cursor = self._journal.cursor
        self._sent = [entry for entry in self._sent if entry[0] > cursor and entry[2]]

    def _message(self, topic, payload):
        """What the backend says; called while a packet is parsed, so nothing is sent here."""
        try:
            if topic == self._root + b"ack":
                cum, sel, bad = parse_ack(payload, self._key_id, self._published)
                self._journal.confirm(cum, sel + bad)
                for entry in self._sent:
                    if entry[0] in sel or entry[0] in bad:
                        entry[2] = 0
                self._acked = True
            elif topic == b"evmeter/v1/_host/state":
                state = json.loads(payload)
                self.backend_online = isinstance(state, dict) and state.get("online") is True
        except (ValueError, JournalError) as error:
            self.acks_refused += 1
            log.warning("uplink: refused from %s: %s", topic.decode(), error)
