import asyncio
import json

from evmeter.uplink import publisher as publisher_module
from evmeter.uplink.publisher import parse_ack
from fakes.uplink_bench import ROOT, UplinkBench
from support import raises


def test_live_messages_come_before_the_backlog_which_waits_for_the_backend():
    bench = UplinkBench()
    bench.monitor.changes = [("METER", '{"act": true}')]
    bench.play()
    topics = [topic for topic, _, _, _, _, _ in bench.broker.published]
    assert topics[:4] == [ROOT + b"avail", ROOT + b"info", ROOT + b"status",
                          ROOT + b"alarm/METER"]
    assert all(pid >= 32768 for _, _, qos, _, _, pid in bench.broker.published if qos)
    assert bench.broker.subscribed == [ROOT + b"ack", b"evmeter/v1/_host/state"]
    assert bench.durable() == []


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
    bench = UplinkBench()
    bench.play(lambda: bench.broker.host(True), lambda: bench.broker.ack(99),
               lambda: bench.broker.ack(2, key="00000000"),
               lambda: bench.broker.say(ROOT + b"ack", b"\xff\xfe"))
    assert bench.journal.confirmed == []
    assert bench.uplink.acks_refused == 3


def test_telemetry_is_dense_while_charging():
    bench = UplinkBench(0)
    bench.uplink.charging = True
    bench.play(*[lambda: bench.clock.advance(1000)] * 25)
    charging = len(bench.broker.sent(b"tel"))
    bench = UplinkBench(0)
    bench.play(*[lambda: bench.clock.advance(1000)] * 25)
    assert (charging, len(bench.broker.sent(b"tel"))) == (3, 1)


def test_a_late_meter_is_asked_for_telemetry_again_after_a_second():
    for charging in (False, True):
        bench = UplinkBench(0)
        bench.uplink.charging = charging
        bench.monitor.live = None
        bench.play(lambda: bench.clock.advance(500),
                   lambda: setattr(bench.monitor, "live", "{}"),
                   lambda: bench.clock.advance(500))
        assert len(bench.broker.sent(b"tel")) == 1, charging


def test_all_alarms_are_told_again_after_a_reconnect_with_their_clearing():
    bench = UplinkBench(0)
    alarms = []

    def tell(*changes):
        bench.monitor.changes = list(changes)
        bench.uplink.status_changed()

    bench.play(lambda: tell(("METER", "{1}"), ("PILOT", "{2}")), lambda: tell(("METER", "")))
    alarms.append([(topic[-5:], text) for topic, text, _, _, _, _ in bench.broker.published
                   if b"alarm" in topic])
    del bench.broker.published[:]
    bench.play()
    alarms.append([(topic[-5:], text) for topic, text, _, _, _, _ in bench.broker.published
                   if b"alarm" in topic])
    assert alarms == [[(b"METER", b"{1}"), (b"PILOT", b"{2}"), (b"METER", b"")],
                      [(b"METER", b""), (b"PILOT", b"{2}")]], alarms


def test_status_is_told_on_change_and_every_five_minutes():
    bench = UplinkBench(0)
    bench.play(*[lambda: bench.clock.advance(60000)] * 11)
    assert len(bench.broker.sent(b"status")) == 3
    bench = UplinkBench(0)
    bench.play(bench.uplink.status_changed, bench.uplink.status_changed)
    assert len(bench.broker.sent(b"status")) == 3
    retained = {topic[len(ROOT):]: (qos, retain)
                for topic, _, qos, retain, _, _ in bench.broker.published}
    assert retained == {b"avail": (1, 1), b"info": (1, 1), b"status": (1, 1), b"tel": (0, 0),
                        b"diag": (0, 0)}


def test_a_live_message_that_is_too_long_is_left_out():
    bench = UplinkBench(1)
    bench.monitor.text = "x" * 2561
    bench.play(lambda: bench.broker.host(True))
    assert bench.broker.sent(b"status") == []
    assert bench.durable() == [(1, 1, 2)]
    assert bench.broker.connections == 1


def test_commands_and_configuration_go_to_their_handlers_where_there_are_any():
    bench = UplinkBench(0)
    got = []
    uplink = bench.uplink

    def command(payload):
        got.append(payload)
        uplink.answer(b"cmd/res", "{}")
        if payload == b"bad":
            raise ValueError("no")

    uplink.on_command = command
    uplink.on_config = got.append
    for number in range(9):
        uplink.answer(b"cmd/res", "%d" % number)  # before there is a connection
    bench.play(lambda: bench.broker.say(ROOT + b"cmd", b"one"),
               lambda: bench.broker.say(ROOT + b"cmd", b"bad"),
               lambda: bench.broker.say(ROOT + b"cfg/set", b"two"))
    assert bench.broker.subscribed == [ROOT + b"ack", ROOT + b"cmd", ROOT + b"cfg/set",
                                       b"evmeter/v1/_host/state"]
    assert got == [b"one", b"bad", b"two"]
    answers = [payload for payload, _, _ in bench.broker.sent(b"cmd/res")]
    assert answers == [b"%d" % number for number in range(1, 9)] + [b"{}", b"{}"]


class _Sleeper:
    """asyncio and os for the publisher: pauses are noted and take no time."""

    def __init__(self, clock, chance, limit):
        self.pauses = []
        self._clock = clock
        self._chance = chance
        self._limit = limit

    def urandom(self, count):
        return bytes([self._chance] * count)

    async def sleep_ms(self, ms):
        self.pauses.append(ms)
        self._clock.advance(ms)
        if len(self.pauses) >= self._limit:
            raise KeyError("enough")


def _pauses(chance, connected_ms=0):
    bench = UplinkBench(0)

    class Refusing:
        async def connect(self):
            bench.clock.advance(connected_ms)
            raise OSError(111)

        def close(self):
            return None

    bench.uplink._session = Refusing()
    sleeper = _Sleeper(bench.clock, chance, 12)
    kept = publisher_module.asyncio, publisher_module.os
    publisher_module.asyncio = publisher_module.os = sleeper
    try:
        asyncio.run(bench.uplink.run())
    except KeyError:
        assert bench.uplink.reconnects == 12
    finally:
        publisher_module.asyncio, publisher_module.os = kept
    return sleeper.pauses


def test_pauses_double_from_1_s_to_300_s_half_of_them_by_chance():
    longest = [min(1000 * 2**n, 300000) for n in range(12)]
    assert _pauses(255) == longest
    assert _pauses(0) == [ms // 2 for ms in longest]
    assert _pauses(255, 61000) == [1000] * 12


def test_deeply_nested_and_odd_messages_are_refused():
    bench = UplinkBench(1)
    odd = [b"[" * 3000, b"{" * 3000, b"", b"\x00", b"nul", b'{"k":"a1b2c3d4","cum":1e3}',
           b'{"k":"a1b2c3d4","cum":[1]}', b'{"k":"a1b2c3d4","sel":{"seq":1},"cum":0}']
    bench.play(lambda: bench.broker.host(True),
               *[lambda text=text: bench.broker.say(ROOT + b"ack", text) for text in odd])
    assert bench.uplink.acks_refused == len(odd)
    assert bench.journal.confirmed == [] and bench.broker.connections == 1
    for state in (b"online", b"[]", b'{"online": 1}', b'{"online": "true"}'):
        bench = UplinkBench(1)
        bench.play(lambda: bench.broker.say(b"evmeter/v1/_host/state", state))
        assert not bench.durable(), state
