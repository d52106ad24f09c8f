# The device's own uplink on real sockets: uplink.py JSON, with port, key, name, frames, bytes,
# window, scale, live, design and away_days. The journal is a series of frames made from their
# number; with frames 0 it is the real one in the host board's folder. For away_days of the
# publisher's time the backend is away: a line on each tenth of them; `early` frames were published
# all the same.
#
# The sockets have the ESP32's worst manners: after setblocking(True) a read or write waits for
# ever. Time runs `scale` times as fast as the host's, and the pauses between two connections are
# skipped. One line of JSON at the end: figures, and the longest time that the pilot's task, which
# wants its turn every 50 ms, had to wait; `ms` is the host's time from the backend's first word to
# its last one, `first_ms` that from the start to its first acknowledgement. Interrupted, it says
# in one line of JSON how the uplink is.

import asyncio
import gc
import json
import os
import select
import socket
import sys
import time

# ruff: noqa: E402
gc.threshold(2048)  # before anything is compiled: that leaves a small heap in crumbs

from trusts_puback import trust

from evmeter.system.clock import Clock
from evmeter.system.log import log
from evmeter.uplink import link as link_module
from evmeter.uplink import mqtt as mqtt_module
from evmeter.uplink import publisher as publisher_module
from evmeter.uplink.link import Link
from evmeter.uplink.publisher import Uplink

_PILOT_MS = 50
_PAUSE_MS = 400  # only between two connections does the uplink sleep for so long
_SKIPPED_IN_MS = 20
_EVENT = 2
_AWAY_STEP_MS = 240000


class Time:
    """`time` and `asyncio` for the uplink."""

    def __init__(self, scale):
        self._scale = scale
        self._begun = time.ticks_ms()
        self.skipped_ms = 0

    def ticks_ms(self):
        return time.ticks_diff(time.ticks_ms(), self._begun) * self._scale + self.skipped_ms

    @staticmethod
    def ticks_diff(end, start):
        return end - start

    async def sleep_ms(self, ms):
        if ms >= _PAUSE_MS:
            self.skipped_ms += max(0, ms - _SKIPPED_IN_MS * self._scale)
            await asyncio.sleep_ms(_SKIPPED_IN_MS)
        else:
            await asyncio.sleep_ms(ms // self._scale)


class Socket:
    """A TCP socket that blocks for ever unless it was told not to."""

    def __init__(self):
        self.inner = socket.socket()
        self.inner.setblocking(False)
        self._blocking = True
        self.setsockopt, self.close, self.recv = (self.inner.setsockopt, self.inner.close,
                                                  self.inner.recv)

    def setblocking(self, flag):
        self._blocking = flag

    def settimeout(self, seconds):
        """The first setblocking(True) takes it away."""

    def _wait(self, call, *args):
        while True:
            count = call(*args)
            if count is not None or not self._blocking:
                return count
            time.sleep_ms(1)

    def connect(self, address):
        try:
            self.inner.connect(address)
        except OSError:
            if not self._blocking:
                raise
            poller = select.poll()
            poller.register(self.inner, select.POLLOUT)
            poller.poll()

    def readinto(self, buffer):
        return self._wait(self.inner.readinto, buffer)

    def read(self, count):
        return self._wait(self.inner.read, count)

    def write(self, data, length=None):
        return self._wait(self.inner.write, data if length is None else data[:length])


class Sockets:
    """The module `socket`, and what select.poll makes."""

    AF_INET = socket.AF_INET
    SOCK_STREAM = socket.SOCK_STREAM
    getaddrinfo = staticmethod(socket.getaddrinfo)
    socket = Socket

    def __init__(self):
        self._poller = select.poll()

    def register(self, sock, flags):
        self._poller.register(sock.inner, flags)

    def poll(self, timeout):
        return self._poller.poll(timeout)


class Series:
    """The journal's face to the uplink; every second read has a live message sent, if `live`."""

    def __init__(self, frames, length, key, live):
        self.next_seq = frames + 1
        self.cursor = 0
        self._length = length
        self._head = '{"v":1,"k":"%s","seq":%%d,"sid":"","pad":"' % key
        self._live = live
        self.uplink = None

    def read(self, seq, buffer):
        head = (self._head % seq).encode()
        end = self._length - 2
        buffer[: len(head)] = head
        for at in range(len(head), end):
            buffer[at] = 120
        buffer[end : end + 2] = b'"}'
        if self._live and seq & 1:
            self.uplink.answer(b"cmd/res", "{}")  # which the collector does not listen to
        return _EVENT + seq % 2, self._length

    def confirm(self, cum, sel=(), bad=()):
        self.cursor = max(self.cursor, cum)
        while self.cursor + 1 in sel:
            self.cursor += 1


class Monitor:
    """Live messages that say little."""

    def info(self):
        return '{"v":1}'

    status = telemetry = info

    def diagnostics(self, counters):
        return json.dumps(counters)

    def alarms(self, all_codes=False):
        return []


def settings(given):
    return {"host": "127.0.0.1", "port": given["port"], "user": None, "password": None,
            "keepalive_s": 5, "window": given["window"], "telemetry_s": 10}


def real_journal():
    """The journal on the ring in the folder's flash.img."""
    from evmeter.ledger.journal import Journal
    from evmeter.ledger.ledger import account
    from evmeter.ledger.ring import RingStore
    from host_flash import BLOCK_BYTES, FlashFile
    from host_nvs import NvsFile

    folder = os.getenv("EVMETER_HOST_DIR")
    path = folder + "/flash.img"
    flash = FlashFile(path, os.stat(path)[6] // BLOCK_BYTES)
    journal = Journal(RingStore(lambda: flash), NvsFile(folder + "/nvs.json"), account)
    journal.open()
    return journal


class Watched:
    """Notes when the backend's acknowledgements come, and how many frames were read."""

    def __init__(self, journal):
        self.first = self.last = None
        self.reads = 0
        self._confirm, self._read = journal.confirm, journal.read
        journal.confirm, journal.read = self.confirm, self.read

    def read(self, seq, buffer):
        self.reads += 1
        return self._read(seq, buffer)

    def confirm(self, cum, sel=(), bad=()):
        self._confirm(cum, sel, bad)
        self.last = time.ticks_ms()
        if self.first is None:
            self.first = self.last


async def away(fast, days):
    """Let so many days pass for the publisher."""
    steps = days * 86400000 // _AWAY_STEP_MS
    for step in range(1, steps + 1):
        fast.skipped_ms += _AWAY_STEP_MS
        await asyncio.sleep_ms(2)
        if step % (steps // 10) == 0:
            print("away for %d h" % (step * _AWAY_STEP_MS // 3600000))


async def deliver(given):
    """Until the backend has confirmed all frames."""
    fast = Time(given["scale"])
    days = given["away_days"]
    for module in (link_module, mqtt_module, publisher_module):
        module.time = module.asyncio = fast
    if days:  # the broker's answers take no days
        link_module.time = mqtt_module.time = Time(1)
    frames = given["frames"]
    journal = Series(frames, given["bytes"], given["key"], given["live"]) if frames else (
        real_journal())
    frames = journal.next_seq - 1
    uplink = Uplink(settings(given), given["name"], journal, Clock(0, fast), Monitor(),
                    given["key"], Link(sockets=Sockets, poll=Sockets))
    if given["frames"]:
        uplink._published = 0  # nothing of this lay in the journal at the start
        journal.uplink = uplink
    if given["design"] == "trusts":
        trust(uplink)
    now.append(uplink)
    watched = Watched(journal)
    longest_us = 0
    begun = time.ticks_ms()
    online = None
    task = asyncio.create_task(uplink.run())
    if days:
        await away(fast, days)
    early = watched.reads
    while journal.cursor < frames and not task.done():
        slept = time.ticks_us()
        await asyncio.sleep_ms(_PILOT_MS if online else 1)
        if online:
            longest_us = max(longest_us, time.ticks_diff(time.ticks_us(), slept))
        elif uplink.backend_online:
            online = time.ticks_ms()
    if task.done():
        await task  # raises what it died of
    task.cancel()
    return {"gap_ms": longest_us // 1000, "reconnects": uplink.reconnects,
            "resends": uplink.resends, "refused": uplink.acks_refused,
            "live": uplink._live_pid, "simulated_s": fast.ticks_ms() // 1000, "frames": frames,
            "early": early,
            "ms": time.ticks_diff(watched.last, online or begun),
            "first_ms": time.ticks_diff(watched.first, begun)}


def bare(given):
    """A wrong design: umqtt.simple on that socket, as its examples use it."""
    umqtt = mqtt_module.umqtt
    umqtt.socket = Sockets
    client = umqtt.MQTTClient(given["name"].encode(), "127.0.0.1", given["port"], keepalive=30)
    client.connect(False)
    journal = Series(given["frames"], given["bytes"], given["key"], False)
    buffer = bytearray(given["bytes"])
    for seq in range(1, given["frames"] + 1):
        kind, _ = journal.read(seq, buffer)
        client.publish(b"evmeter/v1/%s/%s" % (given["name"].encode(),
                                              b"evt" if kind == _EVENT else b"ivl"),
                       buffer, False, 1)
    return {"gap_ms": 0}


def state():
    """How the uplink is, for a verdict."""
    if not now:
        return {"where": "in umqtt.simple"}
    uplink = now[0]
    return {"online": uplink.online, "backend_online": uplink.backend_online,
            "confirmed": uplink._journal.cursor, "on_the_way": [one[0] for one in uplink._sent],
            "reason": uplink.reason, "reconnects": uplink.reconnects,
            "resends": uplink.resends, "refused": uplink.acks_refused}


now = []  # the uplink, once it runs
given = json.loads(sys.argv[1])
log.setLevel(40)  # each connection that is lost is a warning
try:
    found = bare(given) if given["design"] == "bare" else asyncio.run(deliver(given))
except KeyboardInterrupt:
    found = state()
print(json.dumps(found))
