"""The uplink between a journal and a broker in memory."""

import asyncio
import gc
import json

from evmeter.uplink import mqtt, publisher
from evmeter.uplink.link import Link
from evmeter.uplink.publisher import Uplink
from fakes.clock import FakeClock
from fakes.memory_journal import MemoryJournal
from fakes.net import FakeBroker, FakePoller, FakeSockets

SETTINGS = {"host": "127.0.0.1", "port": 1883, "user": None, "password": None,
             "keepalive_s": 30, "window": 3, "telemetry_s": 10}
ROOT = b"evmeter/v1/demo-0001/"


_TURNS = 40  # of the event loop after each step


class _Turns:
    """asyncio without pauses: a test goes by turns of the loop, never by real time."""

    @staticmethod
    async def sleep_ms(ms):
        await asyncio.sleep_ms(0)


class Monitor:
    """The live messages as a test sets them."""

    def __init__(self):
        self.changes = []
        self.all_alarms = []
        self.live = '{"p_mw": 1}'
        self.text = '{"st": "idle"}'

    def info(self):
        return "{}"

    def status(self):
        return self.text

    def telemetry(self):
        return self.live

    def diagnostics(self, counters):
        return json.dumps(counters)

    def alarms(self, all_codes=False):
        changes, self.changes = self.changes, []
        return self.all_alarms if all_codes else changes


class Backend(FakeBroker):
    """A broker with a backend that acknowledges when told to."""

    def ack(self, cum, sel=(), bad=(), key="a1b2c3d4"):
        self.say(ROOT + b"ack", json.dumps({
            "v": 1, "k": key, "cum": cum, "sel": list(sel),
            "bad": [{"seq": seq, "why": "sig"} for seq in bad]}).encode())

    def host(self, online):
        self.say(b"evmeter/v1/_host/state", b'{"online": %s}' % (b"true" if online else b"false"))

    def sent(self, stream):
        return [(payload, dup, pid) for topic, payload, _, _, dup, pid in self.published
                if topic == ROOT + stream]


class UplinkBench:
    """An Uplink on a broker in memory; `play` runs it and takes the steps one by one."""

    def __init__(self, frames=6, room=0):
        gc.collect()  # a link takes 7 KB in two pieces, and the heap of the tests is small
        self.broker = Backend()
        self.journal = MemoryJournal([(1 + number % 4, b"frame %d" % (number + 1))
                                      for number in range(frames)])
        self.clock = FakeClock(1_790_000_000_000)
        self.monitor = Monitor()
        self.uplink = Uplink(SETTINGS, "demo-0001", self.journal, self.clock, self.monitor,
                             "a1b2c3d4", Link(sockets=FakeSockets(self.broker), poll=FakePoller,
                                                  room=room))

    async def _play(self, steps):
        task = asyncio.create_task(self.uplink.run())
        await self._settle()
        for step in steps:
            step()
            await self._settle()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return

    async def _settle(self):
        if self.broker.socket:
            self.broker.socket.most_at_once = 4096
        for _ in range(_TURNS):
            await asyncio.sleep_ms(0)

    def play(self, *steps):
        publisher.asyncio = mqtt.asyncio = _Turns
        try:
            asyncio.run(self._play(steps))
        finally:
            publisher.asyncio = mqtt.asyncio = asyncio

    def durable(self):
        """(frame number, dup, pid) of the durable frames in the order in which they came."""
        return [(int(payload.split()[1]), dup, pid)
                for topic, payload, _, _, dup, pid in self.broker.published
                if payload.startswith(b"frame")]
