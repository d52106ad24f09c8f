"""The uplink task: live messages first, then the journal, in a window that only the backend moves.

A PUBACK says that a broker has a message, and brokers were seen to lose such messages; a frame
counts as delivered when the backend's own acknowledgement names it.
"""

import asyncio
import json
import os
import time

from micropython import const

from evmeter.ledger.journal import MAX_PAYLOAD, JournalError, pieces
from evmeter.system.log import log
from evmeter.uplink.link import Link
from evmeter.uplink.mqtt import Session

_STREAMS = ("", "rec", "evt", "ivl", "log")
_FIRST_PAUSE_MS = const(1000)
_LONGEST_PAUSE_MS = const(300000)
_STABLE_MS = const(60000)
_RESEND_MS = const(10000)
_LONGEST_RESEND_MS = const(60000)
_CATCH_UP_MS = const(600000)
_STATUS_MS = const(300000)
_IDLE_TELEMETRY_MS = const(60000)
_NO_TELEMETRY_MS = const(1000)
_DIAG_MS = const(900000)
_HOT_MS = const(30)  # so long after traffic the socket is looked at without a pause
_WARM_MS = const(300)
_WARM_STEP_MS = const(2)
_IDLE_STEP_MS = const(20)
_MOST_ACKED = const(64)
_COMPLAIN_MS = const(60000)
_HOST = b"evmeter/v1/_host/state"
_LIVE_PID = const(32768)


def packet_id(seq):
    """The MQTT packet id of a durable frame: 1 to 32767; live messages have the others."""
    return seq % 32767 + 1


def _key_of(payload):
    """The key id in a frame's payload, with or without a blank before it, b"" where it was made
    without a key; None where it names none."""
    data = bytes(payload)
    at = data.find(b'"k":')
    found = data[at + 4 : at + 16].split(b'"')
    return found[1] if at >= 0 and len(found) > 1 else None


def parse_ack(payload, key_id, highest, made_with=None):
    """The backend's acknowledgement as (cum, sel, bad numbers). `made_with(key id)`: whether what
    waits for one was made with another key, one before `key_id`.

    Raises ValueError where it is malformed, for another key, or names a number that was never
    published.
    """
    ack = json.loads(payload)
    if not isinstance(ack, dict) or (
            ack.get("k") != key_id and not (made_with and made_with(ack.get("k")))):
        raise ValueError("not an acknowledgement for this key")
    sel = ack.get("sel", [])
    bad = ack.get("bad", [])
    if not isinstance(sel, list) or not isinstance(bad, list) or len(sel + bad) > _MOST_ACKED:
        raise ValueError("sel and bad must be lists of at most %d in all" % _MOST_ACKED)
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

    `monitor` gives the live messages (monitoring/status.py). `on_command(payload)` and
    `on_config(payload)` take what comes on `cmd` and `cfg/set`, where they are set before `run`;
    `answer` sends what they have to say. `on_greet()` is called at each connection, when the
    birth messages are out. `on_damage(text)` is told of a frame that cannot be read. `discovery`
    is a Discovery, or None.
    """

    def __init__(self, settings, device_id, journal, clock, monitor, key_id, link=None):
        self._settings = settings
        self._root = root = ("evmeter/v1/%s/" % device_id).encode()
        self._journal = journal
        self._clock = clock
        self._monitor = monitor
        self._key_id = key_id
        self._topics = [root + stream.encode() for stream in _STREAMS]
        self._session = Session(link or Link(), device_id, settings, root + b"avail",
                                self._message)
        self._window = settings["window"]
        self._sent = []  # [sequence, sent at, resend after] of frames not yet confirmed
        self._next_seq = 0
        # What lay in the journal at the start may have been published before the reboot.
        self._published = journal.next_seq - 1
        self._live_pid = 0
        self._answers = []
        self._status_due = True
        self._caught_up_ms = self._status_ms = 0
        self._telemetry_ms = self._diag_ms = self._complained_ms = None
        self._again = None  # [first, last] of frames that were asked for
        self._ask_wish = self._announce = False
        self.on_command = self.on_config = self.on_greet = self.on_damage = None
        self.discovery = None
        self.charging = False
        self.online = False
        self.backend_online = False
        self.reconnects = 0
        self.resends = 0
        self.acks_refused = 0
        self.reason = ""  # why the last connection ended or did not come about

    def status_changed(self):
        """Something that the status message tells has changed."""
        self._status_due = True

    def answer(self, name, text, retain=False):
        """Send `text` on the device's topic `name` (bytes: cmd/res, cfg); it may be a function
        that gives it in parts when its turn comes. While there is no connection the newest eight
        are kept."""
        self._answers.append((name, text, 1, retain))
        del self._answers[:-8]

    async def knock(self):
        """Connect once and leave: does the broker take this device? Raises OSError."""
        try:
            await self._session.connect()
        finally:
            self._session.close()

    def drained(self):
        """Whether every answer is on its way; so it is where there is no connection."""
        return not self.online or (not self._answers and self._session.flush())

    def resend(self, first, last):
        """Send the frames `first` to `last` once more, also what is confirmed."""
        self._again = [first, last]

    def ask_wish(self):
        """Have the broker send the wished configuration again, that it retains."""
        self._ask_wish = True

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
                self.reason = str(error)
                log.warning("uplink: %s", error)
            finally:
                self.online = self.backend_online = False
                self._session.close()
            self.reconnects += 1
            if self._clock.mono_ms() - began_ms > _STABLE_MS:
                pause_ms = _FIRST_PAUSE_MS
            # half of it by chance: a site's devices must not all come back at once
            await asyncio.sleep_ms(pause_ms // 2 + pause_ms * os.urandom(1)[0] // 510)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)

    async def _greet(self):
        await self._live(b"avail", "online")
        await self._live(b"info", self._monitor.info())
        await self._send_status(True)
        await self._subscribe(self._root + b"ack")
        if self.on_command:
            await self._subscribe(self._root + b"cmd")
        if self.on_config:
            await self._subscribe(self._root + b"cfg/set")
        if self.discovery:
            await self._subscribe(self.discovery.birth)
            self._announce = True
        if self.on_greet:
            self.on_greet()
        await self._subscribe(_HOST)  # last: the retained answer lets the backlog go
        self.online = True

    def _rewind(self):
        """Send again, from the first frame that the backend has not confirmed."""
        self._sent = []
        self._next_seq = 0
        self._caught_up_ms = self._clock.mono_ms()

    async def _turn(self):
        """Await an empty transmit buffer; returns the next packet id of a live message."""
        while not self._session.flush():
            await asyncio.sleep_ms(_WARM_STEP_MS)
        self._live_pid = (self._live_pid + 1) % _LIVE_PID
        return _LIVE_PID + self._live_pid  # 32768 to 65535

    async def _subscribe(self, topic):
        pid = await self._turn()
        self._session.subscribe(topic, pid)

    async def _live(self, name, text, qos=1, retain=True):
        pid = await self._turn()
        topic = self._root + name
        area = self._session.payload_area(topic)
        length = 0
        for part in text() if callable(text) else (text,):
            for piece in pieces(part):
                begin, length = length, length + len(piece)
                if length > MAX_PAYLOAD:
                    log.error("uplink: %s of %d bytes and more not sent", name.decode(), length)
                    return
                area[begin:length] = piece
        self._session.publish(topic, area[:length], qos, retain, pid)

    async def _send_status(self, all_alarms=False):
        self._status_due = False
        self._status_ms = self._clock.mono_ms()
        await self._live(b"status", self._monitor.status())
        for code, text in self._monitor.alarms(all_alarms):
            await self._live(b"alarm/" + code.encode(), text)

    async def _deliver(self):
        session = self._session
        active_ms = time.ticks_ms()
        while True:
            active = session.poll()
            if session.flush():
                if self._live_due():
                    await self._send_live()
                    active = True
                elif self.backend_online and self._send_durable():
                    active = True
            now = time.ticks_ms()
            if active:
                active_ms = now
            # the window is to be bounded by the round trip, not by this pause
            quiet_ms = time.ticks_diff(now, active_ms)
            await asyncio.sleep_ms(0 if quiet_ms < _HOT_MS else
                                   _WARM_STEP_MS if quiet_ms < _WARM_MS else _IDLE_STEP_MS)

    def _passed(self, since_ms, every_ms):
        return since_ms is None or self._clock.mono_ms() - since_ms >= every_ms

    def _telemetry_every_ms(self):
        return self._settings["telemetry_s"] * 1000 if self.charging else _IDLE_TELEMETRY_MS

    def _live_due(self):
        return (self._status_due or self._answers or self._announce or self._ask_wish
                or self._passed(self._status_ms, _STATUS_MS)
                or self._passed(self._telemetry_ms, self._telemetry_every_ms())
                or self._passed(self._diag_ms, _DIAG_MS))

    async def _send_live(self):
        """Send the live messages that are due."""
        if self._status_due or self._passed(self._status_ms, _STATUS_MS):
            await self._send_status()
            if not self.backend_online:  # its word may have come when there was no memory for it
                await self._subscribe(_HOST)
        while self._answers:
            first = self._answers[0]
            await self._live(*first)
            if self._answers[0] is first:  # else newer ones have pushed it out
                self._answers.pop(0)
        if self._ask_wish:
            self._ask_wish = False
            await self._subscribe(self._root + b"cfg/set")
        if self._announce:
            pid = await self._turn()
            self._announce = False
            area = self._session.payload_area(self.discovery.topic)
            self._session.publish(self.discovery.topic, area[:self.discovery.fill(area)], 1, True,
                                  pid)
        every_ms = self._telemetry_every_ms()
        if self._passed(self._telemetry_ms, every_ms):
            self._telemetry_ms = self._clock.mono_ms()
            text = self._monitor.telemetry()
            if text is None:  # the meter has not been read yet: in a second again
                self._telemetry_ms -= every_ms - _NO_TELEMETRY_MS
            else:
                await self._live(b"tel", text, 0, False)
        if self._passed(self._diag_ms, _DIAG_MS):
            self._diag_ms = self._clock.mono_ms()
            await self._live(b"diag", self._monitor.diagnostics({
                "reconnects": self.reconnects, "resends": self.resends,
                "acks_refused": self.acks_refused, "oversized": self._session.oversized}), 0,
                False)

    def _send_durable(self):
        """Send one frame: again if its time has come, else the next one; returns whether it was
        sent."""
        now_ms = self._clock.mono_ms()
        for entry in self._sent:
            if now_ms - entry[1] >= entry[2]:
                entry[1] = now_ms
                entry[2] = min(2 * entry[2], _LONGEST_RESEND_MS)
                self.resends += 1
                self._send_frame(entry[0], True, True)
                return True
        if len(self._sent) >= self._window:
            return False
        if self._again:
            seq = self._again[0]
            self._again = [seq + 1, self._again[1]] if seq < self._again[1] else None
            self._send_frame(seq, True)
            return True
        journal = self._journal
        seq = max(self._next_seq, journal.cursor + 1)
        if seq >= journal.next_seq:
            # A frame that could not be read, though it is there, is tried again.
            if (not self._sent and seq > journal.cursor + 1
                    and now_ms - self._caught_up_ms >= _CATCH_UP_MS):
                self._rewind()
            return False
        self._next_seq = seq + 1
        self._caught_up_ms = now_ms
        self._sent.append([seq, now_ms, _RESEND_MS])
        self._send_frame(seq, seq <= self._published)
        self._published = max(self._published, seq)
        return True

    def _send_frame(self, seq, dup, again=False):
        area = self._session.payload_area(self._topics[1])  # all of one length
        try:
            kind, length = self._journal.read(seq, area)
            if again and _key_of(area[:length]) == b"":
                # nobody can say whose it is, and so acknowledge it: as what the backend calls bad
                self._journal.confirm(self._journal.cursor, (seq,), (seq,))
                raise JournalError("frame %d was made without a key: passed over" % seq)
        except JournalError as error:
            log.error("uplink: %s", error)
            if self.on_damage:
                self.on_damage(str(error))
            self._sent = [entry for entry in self._sent if entry[0] != seq]
            return
        self._session.publish(self._topics[kind], area[:length], 1, False, packet_id(seq), dup)

    def _made_with(self, key_id):
        """Whether the oldest frame that is on its way has this key: after a change of the key
        those before it are sent again where the cursor was lost."""
        return (bool(self._sent) and isinstance(key_id, str) and len(key_id) == 8
                and _key_of(self._journal.view(self._sent[0][0])[1]) == key_id.encode())

    def _message(self, topic, payload):
        """What the backend says."""
        try:
            if topic == self._root + b"ack":
                cum, sel, bad = parse_ack(payload, self._key_id, self._published,
                                          self._made_with)
                done = sel + bad
                self._journal.confirm(cum, done, bad)
                cursor = self._journal.cursor
                self._sent = [entry for entry in self._sent
                              if entry[0] > cursor and entry[0] not in done]
            elif topic == _HOST:
                state = json.loads(payload)
                was_online = self.backend_online
                self.backend_online = isinstance(state, dict) and state.get("online") is True
                if self.backend_online and not was_online:
                    self._rewind()
                    if self._clock.quality == "U":  # it may tell the time in answer to a status
                        self._status_due = True
            elif self.discovery and topic == self.discovery.birth:
                self._announce = self._announce or payload == b"online"
            elif topic == self._root + b"cmd" and self.on_command:
                self.on_command(payload)
            elif topic == self._root + b"cfg/set" and self.on_config:
                self.on_config(payload)
        except (ValueError, RuntimeError, MemoryError, JournalError) as error:
            # nested too deep: MemoryError on MicroPython, RuntimeError on CPython
            self.acks_refused += 1
            if self._passed(self._complained_ms, _COMPLAIN_MS):
                # a line takes an ESP32's UART 7 ms: a flood of them would hold everything up
                self._complained_ms = self._clock.mono_ms()
                log.warning("uplink: refused from %s: %s", topic.decode(), error)
