from evmeter.monitoring import alarms as codes
from evmeter.monitoring.alarms import Alarms
from fakes.clock import FakeClock


def test_an_alarm_is_told_once_and_counted():
    clock = FakeClock(1_790_000_000_000)
    told = []
    alarms = Alarms(clock)
    alarms.on_change = lambda: told.append(1)
    first = dict(alarms.changes())
    assert len(first) == len(codes._ALL)
    assert set(first.values()) == {None}  # clears what an earlier boot left at the broker
    for _ in range(3):
        alarms.raise_(codes.METER, codes.CRITICAL, "no reply")
    assert told == [1]
    (code, fields), = alarms.changes()
    assert (code, fields["n"], fields["sev"], fields["ts"]) == ("METER", 3, "crit", 1_790_000_000)
    assert alarms.changes() == []
    assert alarms.codes() == ["METER"]
    alarms.clear(codes.METER)
    alarms.clear(codes.METER)
    assert told == [1, 1]
    assert alarms.changes() == [("METER", None)]
    assert alarms.active() == []
