from evmeter.session import machine
from evmeter.session.machine import SessionMachine
from evmeter.session.pilot import A, B, C, D, E, F


def _run(timeline, finished_after_ms=5000, started=None):
    """Play (state, pwm, duration ms) rows in 50 ms windows; returns what happened and when."""
    rules = started or SessionMachine(finished_after_ms)
    happened = []
    now = since = 0
    before = None
    for state, pwm, duration_ms in timeline:
        if state != before:
            since = now
        before = state
        for _ in range(duration_ms // 50):
            rules.step(state, pwm, since, now, happened)
            now += 50
    return happened


def test_a_plain_session():
    assert _run((
        (A, False, 1000), (B, False, 1000), (B, True, 1000), (C, True, 10000), (B, True, 7000),
        (A, False, 1000),
    )) == [
        ("open", 1000), ("connected", 1000), ("charging", 3000), ("suspended_ev", 13000),
        ("finished_estimated", 13000), ("close", 20000),
    ]


def test_what_is_too_short_opens_and_closes_nothing():
    for timeline in (
        ((A, False, 500), (B, False, 250), (A, False, 1000)),
        ((A, False, 500), (B, False, 100), (A, False, 300), (B, False, 200), (A, False, 900)),
        ((A, False, 500), (E, False, 2000), (A, False, 500)),
        ((A, False, 500), (F, False, 60000), (A, False, 500)),
        ((None, False, 2000),),
    ):
        assert _run(timeline) == [], timeline
    names = [what for what, _ in _run((
        (B, False, 1000), (A, False, 400), (B, False, 1000), (A, False, 450), (B, False, 500)))]
    assert "close" not in names


def test_direct_ways():
    assert _run(((A, False, 500), (C, True, 1000), (A, False, 600))) == [
        ("open", 500), ("charging", 500), ("close", 1500)]
    assert _run(((C, True, 1000),))[0] == ("open", 0)
    assert _run(((D, True, 1000),))[0] == ("open", 0)


def test_a_car_that_is_ready_at_once_opens_from_the_plug():
    for first in (((B, True, 150), (C, True, 1000)), ((B, False, 100), (B, True, 100),
                  (C, True, 100), (B, True, 100), (C, True, 1000))):
        happened = _run(((A, False, 500),) + first)
        assert happened[0] == ("open", 500), happened
    # what was no car in between is a new beginning
    happened = _run(((A, False, 500), (B, True, 250), (E, False, 200), (B, True, 1000)))
    assert happened[0] == ("open", 950), happened


def test_pauses_stay_inside_one_session():
    happened = _run((
        (B, True, 1000), (C, True, 3000),      # 1000
        (C, False, 2000),                      # the charger withdraws its offer: 4000
        (B, False, 2000), (B, True, 1000),     # 6000, 8000
        (C, True, 2000),                       # 9000
        (A, False, 700),
    ))
    assert [what for what, _ in happened] == [
        "open", "connected", "charging", "suspended_evse", "suspended_ev", "charging", "close"]
    # fast changes of mind make no events
    flapping = _run(((B, True, 1000), (C, True, 100), (B, True, 100), (C, True, 100),
                     (B, True, 100), (C, True, 1000)))
    assert [what for what, _ in flapping] == ["open", "connected", "charging"], flapping


def test_short_faults_change_nothing_and_long_ones_close_after_15_minutes():
    for fault in (E, F):
        names = [what for what, _ in _run((
            (B, True, 500), (C, True, 2000), (fault, False, 2900), (C, True, 2000)))]
        assert names == ["open", "connected", "charging"], names
        names = [what for what, _ in _run((
            (B, True, 500), (C, True, 2000), (fault, False, 30000), (C, True, 2000),
            (A, False, 700)))]
        assert names == ["open", "connected", "charging", "fault", "charging", "close"], names
        happened = _run(((C, True, 2000), (fault, False, 901000)))
        assert happened[-1] == ("abort", 902000), happened


def test_finished_waits_for_its_time_and_is_taken_back_by_a_new_charge():
    names = [what for what, _ in _run((
        (C, True, 2000), (B, True, 4000), (C, True, 2000), (B, True, 6000), (B, True, 6000)))]
    assert names == ["open", "charging", "suspended_ev", "charging", "suspended_ev",
                     "finished_estimated"]
    # a charger that withdraws its offer has not filled the car
    names = [what for what, _ in _run(((C, True, 2000), (B, False, 60000)))]
    assert "finished_estimated" not in names


def test_a_resumed_session_goes_on_and_closes():
    rules = SessionMachine(5000)
    rules.resume(True)
    names = [what for what, _ in _run(((B, True, 6000), (A, False, 600)), started=rules)]
    assert names == ["suspended_ev", "finished_estimated", "close"]


def test_low_power_for_ten_minutes_is_the_end():
    rules = SessionMachine(5000)
    _run(((C, True, 1000),), started=rules)
    assert rules.phase == machine.CHARGING
    done_at = None
    for second in range(3600):
        power_mw = 7_000_000 if second < 600 else 300_000
        if rules.power(power_mw, 1000 * second) and done_at is None:
            done_at = second
    assert 1190 <= done_at <= 1220, done_at
    rules = SessionMachine(5000)
    _run(((C, True, 1000),), started=rules)
    assert not any(rules.power(7_000_000 if second < 600 else 400_000, 1000 * second)
                   for second in range(3600))


class _Full(list):
    """A list that has no memory for its `fails`-th entry."""

    fails = 0

    def append(self, what):
        self.fails -= 1
        if not self.fails:
            raise MemoryError()
        super().append(what)


def test_an_event_that_there_is_no_memory_for_comes_with_the_next_window():
    rows = ((A, False, 1000), (C, True, 5000), (B, True, 7000), (E, False, 1000000),
            (A, False, 1000), (B, True, 1000), (A, False, 2000))
    right = _run(rows)
    assert len(right) == 9
    for fails in range(1, 10):
        rules = SessionMachine(5000)
        happened = _Full()
        happened.fails = fails
        now = since = failures = 0
        before = None
        for state, pwm, duration_ms in rows:
            if state != before:
                since = now
            before = state
            for _ in range(duration_ms // 50):
                try:
                    rules.step(state, pwm, since, now, happened)
                except MemoryError:
                    failures += 1
                now += 50
        assert failures == 1
        assert [what for what, _ in happened] == [what for what, _ in right], fails
