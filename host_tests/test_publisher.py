import asyncio
import json

from evmeter.uplink.link import Link
from evmeter.uplink.publisher import Uplink, packet_id, parse_ack
from fakes.memory_journal import MemoryJournal
from fakes.net import FakeBroker, FakePoller, FakeSockets
from fakes.world import FakeClock
from support import raises

_SETTINGS = {"host": "127.0.0.1", "port": 1883, "user": None, "password": None,
             "keepalive_s": 30, "window": 3, "telemetry_s": 10}
_ROOT = b"evmeter/v1/demo-0001/"


class _Monitor:
    def __init__(self):
        self.changes = []

    def info(self):
        return "{}"

    def status(self):
        return '{"st": "idle"}'

    def telemetry(self):
        return '{"p_mw": 1}'

    def alarms(self):
        changes, self.changes = self.changes, []
        return changes


class _Backend(FakeBroker):
    """A broker with a backend that acknowledges when told to."""

    def ack(self, cum, sel=(), bad=(), key="a1b2c3d4"):
        self.say(_ROOT + b"ack", json.dumps({
            "v": 1, "k": key, "cum": cum, "sel": list(sel),
            "bad": [{"seq": seq, "why": "sig"} for seq in bad]}).encode())

    def host(self, online):
        self.say(b"evmeter/v1/_host/state", b'{"online": %s}' % (b"true" if online else b"false"))

    def sent(self, stream):
        return [(payload, dup, pid) for topic, payload, _, _, dup, pid in self.published
                if topic == _ROOT + stream]


class _Bench:
    def __init__(self, frames=6):
        self.broker = _Backend()
        self.broker.most = 4096
        self.journal = MemoryJournal([(1 + number % 4, b"frame %d" % (number + 1))
                                      for number in range(frames)])
        self.clock = FakeClock(1_790_000_000_000)
        self.monitor = _Monitor()
        self.uplink = Uplink(_SETTINGS, "demo-0001", self.journal, self.clock, self.monitor,
                             "a1b2c3d4", Link(sockets=FakeSockets(self.broker), poll=FakePoller))

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
        for _ in range(60):
            await asyncio.sleep_ms(1)

    def play(self, *steps):
        asyncio.run(self._play(steps))

    def durable(self):
        """(frame number, dup, pid) of the durable frames in the order in which they came."""
        return [(int(payload[6:]), dup, pid)
                for topic, payload, _, _, dup, pid in self.broker.published
                if payload.startswith(b"frame")]


def test_packet_ids_never_are_zero_and_stay_below_the_live_ones():
    for seq, pid in ((1, 2), (32765, 32766), (32766, 32767), (32767, 1), (32768, 2),
                     (65534, 1), (70000, 4467), (4294967295, 4)):
        assert packet_id(seq) == pid, seq
        assert 1 <= packet_id(seq) <= 32767


def test_live_messages_come_before_the_backlog_which_waits_for_the_backend():
    bench = _Bench()
    bench.monitor.changes = [("METER", '{"act": true}')]
    bench.play()
    topics = [topic for topic, _, _, _, _, _ in bench.broker.published]
    assert topics[:4] == [_ROOT + b"avail", _ROOT + b"info", _ROOT + b"status",
                          _ROOT + b"alarm/METER"]
    assert all(pid >= 32768 for _, _, qos, _, _, pid in bench.broker.published if qos)
    assert bench.broker.subscribed == [_ROOT + b"ack", b"evmeter/v1/_host/state"]
    assert bench.durable() == []


def test_the_window_moves_by_the_backends_word_only():
    bench = _Bench()
    broker = bench.broker
    seen = []
    bench.play(
        lambda: broker.host(True),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
        lambda: broker.ack(1),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
        lambda: broker.ack(1, sel=(3,)),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
        lambda: broker.ack(4),
        lambda: broker.ack(6),
        lambda: seen.append([number for number, _, _ in bench.durable()]),
    )
    # PUBACKs came for every one of them, and moved nothing
    assert seen == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]], seen
    assert bench.journal.cursor == 6
    streams = [broker.sent(stream) for stream in (b"rec", b"evt", b"ivl", b"log")]
    assert [len(sent) for sent in streams] == [2, 2, 1, 1]
    # all of it lay in the journal at the start and may have been published before
    assert all(dup for _, dup, _ in bench.durable())


def test_a_fresh_frame_is_sent_without_dup_and_again_with_dup_after_10_s():
    bench = _Bench(0)
    bench.play(
        lambda: bench.broker.host(True),
        lambda: bench.journal.append(1, b"frame 1"),
        lambda: bench.clock.advance(9000),
        lambda: bench.clock.advance(2000),
        lambda: bench.clock.advance(15000),
        lambda: bench.clock.advance(6000),
        lambda: bench.broker.ack(1),
        lambda: bench.clock.advance(100000),
    )
    assert bench.durable() == [(1, 0, 2), (1, 1, 2), (1, 1, 2)]
    assert bench.uplink.resends == 2


def test_the_backlog_pauses_while_the_backend_is_off_line():
    bench = _Bench()
    bench.play(
        lambda: bench.broker.host(True),
        lambda: bench.broker.host(False),
        lambda: bench.broker.ack(3),
    )
    assert [number for number, _, _ in bench.durable()] == [1, 2, 3]


def test_a_damaged_frame_does_not_stop_the_others():
    bench = _Bench()
    bench.journal.unreadable.add(2)
    bench.play(lambda: bench.broker.host(True))
    assert [number for number, _, _ in bench.durable()] == [1, 3, 4]


def test_refused_acknowledgements_change_nothing():
    good = {"v": 1, "k": "a1b2c3d4", "cum": 3, "sel": [5], "bad": [{"seq": 6, "why": "sig"}]}
    assert parse_ack(json.dumps(good), "a1b2c3d4", 6) == (3, [5], [6])
    for changes in (
        {"k": "00000000"}, {"k": None}, {"cum": 7}, {"cum": -1}, {"cum": True}, {"cum": "3"},
        {"cum": None}, {"sel": [7]}, {"sel": 5}, {"sel": [None]}, {"sel": list(range(65))},
        {"bad": [{"seq": 9}]}, {"bad": [5]}, {"bad": {"seq": 5}}, {"bad": [{}]},
    ):
        text = json.dumps(dict(good, **changes))
        raises(ValueError, parse_ack, text, "a1b2c3d4", 6)
    for text in ("", "[]", "3", "null", "{"):
        raises(ValueError, parse_ack, text, "a1b2c3d4", 6)
    bench = _Bench()
    bench.play(lambda: bench.broker.host(True), lambda: bench.broker.ack(99),
               lambda: bench.broker.ack(2, key="00000000"),
               lambda: bench.broker.say(_ROOT + b"ack", b"\xff\xfe"))
    assert bench.journal.confirmed == []
    assert bench.uplink.acks_refused == 3


def test_telemetry_is_dense_while_charging():
    bench = _Bench(0)
    bench.uplink.charging = True
    bench.play(*[lambda: bench.clock.advance(1000)] * 25)
    charging = len(bench.broker.sent(b"tel"))
    bench = _Bench(0)
    bench.play(*[lambda: bench.clock.advance(1000)] * 25)
    assert (charging, len(bench.broker.sent(b"tel"))) == (3, 1)
