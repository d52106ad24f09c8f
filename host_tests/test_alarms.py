import asyncio

from evmeter.monitoring import alarms as codes
from evmeter.monitoring.alarms import Alarms
from fakes.clock import FakeClock
from support import raises

START_S = 1_790_000_000
STAYING = ("METER_SWAPPED", "METER_IMPLAUSIBLE", "JOURNAL_FAULT", "WATCHDOG_RESET",
           "REPEATED_REBOOTS", "PULSES_DIFFER", "TASK_DIED", "SIGNATURE_FAULT")


class _Ledger:
    """Takes events; `fails` of them are not taken first."""

    def __init__(self):
        self.events = []
        self.fails = 0

    async def event(self, name, sid, at_ms, fields):
        if self.fails:
            self.fails -= 1
            raise OSError(28)
        fields.update({"ev": name, "sid": sid, "at_ms": at_ms})
        self.events.append(fields)


class _Rig:
    def __init__(self):
        self.clock = FakeClock(START_S * 1000)
        self.told = 0
        self.alarms = Alarms(self.clock)
        self.alarms.on_change = self._tell
        self.ledger = _Ledger()

    def _tell(self):
        self.told += 1

    def one(self):
        """The single change since the last look."""
        (change,) = self.alarms.changes()
        return change

    def write(self, after_ms=0):
        self.clock.advance(after_ms)
        asyncio.run(self.alarms.write(self.ledger, "s-1"))
        events, self.ledger.events = self.ledger.events, []
        return events


def test_the_life_of_every_alarm():
    assert len(codes.ALL) == len(set(codes.ALL)) >= 20
    for code in codes.ALL:
        rig = _Rig()
        alarms, clock = rig.alarms, rig.clock
        staying = code in STAYING
        alarms.raise_(code, codes.CRITICAL, "cause")
        assert (alarms.codes(), rig.told) == ([code], 1)
        assert rig.one() == (code, {
            "code": code, "sev": "crit", "act": True, "ack": False, "n": 1, "first_ts": START_S,
            "on_ts": START_S, "last_ts": START_S, "text": "cause"})
        clock.advance(5000)
        alarms.raise_(code, codes.CRITICAL, "still")  # known: nothing to tell
        assert (alarms.changes(), rig.told) == ([], 1)
        alarms.acknowledge(code)
        clock.advance(5000)
        _, fields = rig.one()
        assert (fields["act"], fields["ack"], fields["n"]) == (True, True, 1)
        assert (fields["on_ts"], fields["last_ts"], fields["text"]) == (
            START_S, START_S + 5, "still")
        alarms.clear(code)
        assert rig.one() == (code, None) and alarms.codes() == []
        clock.advance(5000)
        alarms.raise_(code, codes.WARNING, "again")  # and is new to everybody
        _, fields = rig.one()
        assert (fields["n"], fields["ack"], fields["sev"]) == (2, False, "warn")
        assert (fields["first_ts"], fields["on_ts"]) == (START_S, START_S + 15)
        alarms.clear(code)
        _, fields = rig.one()
        assert (fields is not None) == staying == (code in alarms.codes()), code
        if staying:
            assert (fields["act"], fields["ack"]) == (False, False)
            alarms.acknowledge(code)
            assert rig.one() == (code, None)
        told = rig.told
        alarms.clear(code)
        assert rig.told == told and alarms.changes() == []


def test_what_happens_again_is_counted_and_wants_to_be_seen_again():
    rig = _Rig()
    for number in range(1, 4):
        rig.clock.advance(1000)
        rig.alarms.happened(codes.PULSES, codes.WARNING, "differ")
        _, fields = rig.one()
        assert (fields["n"], fields["act"], fields["on_ts"]) == (number, False, START_S + number)
        if number == 2:
            rig.alarms.acknowledge(codes.PULSES)
            assert rig.one() == (codes.PULSES, None)
    rig.alarms.happened(codes.OVER_CURRENT, codes.WARNING, "for a moment")
    assert rig.one() == (codes.OVER_CURRENT, None)
    rig.alarms.raise_(codes.JOURNAL, codes.CRITICAL, "no journal")
    rig.alarms.happened(codes.JOURNAL, codes.WARNING, "a damaged frame")
    _, fields = rig.one()
    assert (fields["act"], fields["sev"], fields["text"]) == (True, "crit", "no journal")


def test_a_graver_cause_is_told_again():
    rig = _Rig()
    rig.alarms.raise_(codes.JOURNAL_FULL, codes.WARNING, "20 %")
    rig.alarms.acknowledge(codes.JOURNAL_FULL)
    rig.one()
    rig.alarms.raise_(codes.JOURNAL_FULL, codes.CRITICAL, "9 %")
    _, fields = rig.one()
    assert (fields["sev"], fields["ack"], fields["n"], fields["text"]) == ("crit", False, 1, "9 %")


def test_only_what_is_there_can_be_acknowledged():
    rig = _Rig()
    text = "no alarm METER_LOST; there is: none"
    for wrong in ("METER_LOST", "", None, 3, [], "nonesuch"):
        assert text.replace("METER_LOST", str(wrong)) == str(
            raises(ValueError, rig.alarms.acknowledge, wrong))
    rig.alarms.raise_(codes.PILOT, codes.CRITICAL, "x" * 500)
    assert str(raises(ValueError, rig.alarms.acknowledge, "METER_LOST")) == (
        "no alarm METER_LOST; there is: PILOT_FAULT")
    assert len(rig.one()[1]["text"]) == 120


def test_everything_is_told_to_a_broker_that_may_have_lost_it():
    rig = _Rig()
    rig.alarms.raise_(codes.PILOT, codes.CRITICAL, "F")
    rig.alarms.raise_(codes.CLOCK, codes.WARNING, "x")
    rig.alarms.clear(codes.CLOCK)
    found = dict(rig.alarms.changes(True))
    assert sorted(found) == sorted(codes.ALL)
    assert [code for code in found if found[code]] == ["PILOT_FAULT"]
    assert rig.alarms.changes() == []


def test_times_follow_a_clock_that_is_set_later():
    rig = _Rig()
    rig.clock.advance(9000)
    rig.alarms.raise_(codes.PILOT, codes.CRITICAL, "F")
    rig.clock._unix_ms += 86_400_000
    assert rig.one()[1]["on_ts"] == START_S + 9 + 86_400


def test_what_nobody_has_seen_is_shown_after_a_reboot():
    rig = _Rig()
    assert rig.alarms.unseen() == 0
    for code in codes.ALL:
        rig.alarms.happened(code, codes.CRITICAL, "before")
    assert rig.alarms.codes() == sorted(STAYING)
    rig.alarms.acknowledge(codes.WATCHDOG)
    again = _Rig()
    again.alarms.restore(rig.alarms.unseen())
    assert again.alarms.codes() == sorted(set(STAYING) - {codes.WATCHDOG})
    assert again.alarms.unseen() == rig.alarms.unseen()
    _, fields = again.alarms.changes()[0]
    assert (fields["act"], fields["text"]) == (False, "not acknowledged before the reboot")
    for code in again.alarms.codes():
        again.alarms.acknowledge(code)
    assert again.alarms.unseen() == 0


def test_each_change_becomes_an_event_once():
    rig = _Rig()
    rig.alarms.raise_(codes.PILOT, codes.CRITICAL, "F")
    rig.ledger.fails = 1
    raises(OSError, rig.write)
    (event,) = rig.write(700)
    assert (event["ev"], event["sid"], event["code"], event["at_ms"]) == (
        "alarm", "s-1", "PILOT_FAULT", 0)
    assert rig.write(700) == []
    rig.alarms.clear(codes.PILOT)
    rig.alarms.raise_(codes.DIODE, codes.WARNING, "none")
    assert [event["code"] for event in rig.write(1000)] == ["DIODE_MISSING"]
    (event,) = rig.write(60000)
    assert (event["code"], event["act"], event["at_ms"]) == ("PILOT_FAULT", False, 1400)
    assert rig.write(3600000) == []


def test_an_alarm_that_flutters_for_days_does_not_wear_the_flash():
    rig = _Rig()
    events = []
    at_minutes = []
    for second in range(0, 3 * 86400, 30):
        if second % 60:
            rig.alarms.clear(codes.DIODE)
        else:
            rig.alarms.raise_(codes.DIODE, codes.WARNING, "none")
        found = rig.write(30000)
        events += [event["n"] for event in found]
        at_minutes += [second // 60] * len(found)
    assert at_minutes[:8] == [0, 1, 3, 7, 15, 31, 63, 123], at_minutes[:8]
    assert len(events) <= 7 + 3 * 24
    assert events[-1] >= 3 * 1440 - 60  # none of them is left out of the count
    rig.alarms.clear(codes.DIODE)
    assert len(rig.write(3600000)) <= 1
    # after a quiet day the next one is told at once, and its end a minute later
    rig.clock.advance(86_400_000)
    rig.alarms.raise_(codes.DIODE, codes.WARNING, "none")
    assert len(rig.write(0)) == 1
    rig.alarms.clear(codes.DIODE)
    assert len(rig.write(59000)) == 0 and len(rig.write(1000)) == 1
