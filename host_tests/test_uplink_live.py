import json

from evmeter.uplink.publisher import parse_ack
from fakes.uplink_bench import ROOT, UplinkBench
from support import raises


def test_live_messages_come_before_the_backlog_which_waits_for_the_backend():
    bench = UplinkBench()
    bench.monitor.all_alarms = [("METER", '{"act": true}')]
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


def test_alarms_are_told_on_change_and_all_of_them_to_a_broker_that_comes_back():
    bench = UplinkBench(0)
    bench.monitor.all_alarms = [("METER", ""), ("PILOT", "{2}")]

    def tell(*changes):
        bench.monitor.changes = list(changes)
        bench.uplink.status_changed()

    def told():
        found = [(topic[-5:], text, qos, retain)
                 for topic, text, qos, retain, _, _ in bench.broker.published if b"alarm" in topic]
        del bench.broker.published[:]
        return found

    everything = [(b"METER", b"", 1, 1), (b"PILOT", b"{2}", 1, 1)]
    bench.play(lambda: tell(("METER", "{1}")), lambda: tell(("METER", "")))
    assert told() == everything + [(b"METER", b"{1}", 1, 1), (b"METER", b"", 1, 1)]
    bench.play()
    assert told() == everything


def test_an_alarm_goes_at_once_and_before_the_backlog():
    bench = UplinkBench(6)

    def alarm():
        bench.monitor.changes = [("PILOT", "{1}")]
        bench.uplink.status_changed()
        bench.broker.host(True)

    begun_ms = bench.clock.mono_ms()
    bench.play(alarm)
    topics = [topic for topic, _, _, _, _, _ in bench.broker.published]
    assert topics.index(ROOT + b"alarm/PILOT") < topics.index(ROOT + b"evt")
    assert bench.clock.mono_ms() == begun_ms


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
