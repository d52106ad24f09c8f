from evmeter.system.clock import Clock
from support import raises


class _Ticks:
    """The ticks of a device, set by hand."""

    def __init__(self):
        self.now = 0

    def ticks_ms(self):
        return self.now & (2**30 - 1)

    def ticks_diff(self, end, start):
        return ((end - start + 2**29) & (2**30 - 1)) - 2**29


def _clock(floor=0):
    ticks = _Ticks()
    return Clock(floor, ticks), ticks


def test_monotonic_time_does_not_wrap_with_the_ticks():
    clock, ticks = _clock()
    # six days at a time is the most that ticks_diff can tell apart
    for step in (2**28, 2**29, 2**29 + 2**28, 2**30 - 5, 2**30 + 100, 2**30 + 2**29):
        ticks.now = step
        assert clock.mono_ms() == step


def test_setting_the_clock_changes_no_duration():
    clock, ticks = _clock(1_700_000_000_000)
    assert clock.now() == (1_700_000_000_000, "U")
    ticks.now = 1000
    before = clock.mono_ms()
    step = clock.set(1_800_000_000_000, "I", 1000)
    assert step == 100_000_000_000 - 1000
    assert clock.mono_ms() == before
    assert clock.now() == (1_800_000_000_000, "I")
    assert clock.unix_ms_at(0) == 1_800_000_000_000 - 1000
    assert clock.unix_s() == 1_800_000_000


def test_the_floor_only_holds_until_the_clock_is_set():
    clock, ticks = _clock()
    ticks.now = 500
    clock.raise_floor(1_700_000_000_000)
    assert clock.now() == (1_700_000_000_000, "U")
    clock.raise_floor(1_600_000_000_000)
    assert clock.now()[0] == 1_700_000_000_000
    clock.set(1_750_000_000_000, "S", 20)
    clock.raise_floor(1_900_000_000_000)
    assert clock.now() == (1_750_000_000_000, "S")


def test_an_impossible_time_or_quality_is_refused():
    clock, _ = _clock()
    assert "2020" in str(raises(ValueError, clock.set, 946684800000, "I", 0))
    assert "I, S, R" in str(raises(ValueError, clock.set, 1_800_000_000_000, "U", 0))
    assert clock.quality == "U"


DAY = 86400000
NOW = 1_800_000_000_000


def _pass(ticks, clock, ms):
    """Time passes as on a device: the clock is read now and then."""
    while ms > 0:
        ticks.now += min(ms, DAY)
        ms -= DAY
        clock.mono_ms()


def test_quality_decays_by_uncertainty_and_age():
    clock, ticks = _clock(NOW)
    clock.set(NOW, "S", 50)
    # 100 ppm of drift take up what is left of 2 s in 19,500 s
    _pass(ticks, clock, 19_500_000)
    assert (clock.quality, clock.uncertainty_ms) == ("S", 2000)
    _pass(ticks, clock, 1)
    assert clock.quality == "I"
    _pass(ticks, clock, 604_800_000 - 19_500_001)
    assert clock.now() == (NOW + 604_800_000, "I")
    _pass(ticks, clock, 1)
    assert clock.now() == (NOW + 604_800_001, "U")
    clock.limit(3600, 7200)
    clock.set(clock.now()[0], "S", 50)
    for wait_ms, quality in ((3600_000, "S"), (1, "I"), (3599_999, "I"), (1, "U")):
        _pass(ticks, clock, wait_ms)
        assert clock.quality == quality, wait_ms


def test_a_time_too_uncertain_is_never_s():
    clock, ticks = _clock(NOW)
    clock.set(NOW, "S", 2001)
    ticks.now += 1
    assert clock.quality == "I"


def test_one_source_never_goes_behind_the_newest_record():
    clock, ticks = _clock(NOW)
    clock.raise_floor(NOW + DAY)
    text = str(raises(ValueError, clock.set, NOW, "I", 50))
    assert text == "it is 86400 s behind the newest record"
    clock.set(NOW + DAY - 5000, "I", 50)
    clock.set(NOW + 2 * DAY, "I", 50)
    raises(ValueError, clock.set, NOW + DAY, "I", 50)
    # sources that agree show that what was known was ahead
    clock.set(NOW + DAY, "I", 50, agreed=True)
    assert clock.now() == (NOW + DAY, "I")


def test_nothing_goes_behind_what_was_made_with_s():
    clock, ticks = _clock(NOW)
    clock.set(NOW + DAY, "S", 50)
    for quality, several in (("I", True), ("S", True), ("S", False), ("I", False)):
        raises(ValueError, clock.set, NOW, quality, 50, None, "", several)
    clock.set(NOW + DAY - 4000, "S", 50)
    _pass(ticks, clock, DAY)  # S has ended in between
    assert clock.quality == "I"
    raises(ValueError, clock.set, NOW + DAY, "I", 50, None, "", True)
    other, _ = _clock(NOW)
    other.raise_floor(NOW + DAY, NOW + DAY // 2)
    raises(ValueError, other.set, NOW, "S", 50)
    other.set(NOW + DAY // 2, "S", 50)
    assert other.floor_ms() == NOW + DAY // 2


def test_what_was_recorded_before_quality_ended_still_counts():
    clock, ticks = _clock(NOW)
    clock.limit(3600, 7200)
    clock.set(NOW + DAY, "I", 50)
    _pass(ticks, clock, 7201_000)
    assert clock.quality == "U"
    raises(ValueError, clock.set, NOW + DAY, "I", 50)  # up to 7200 s after it records had I
    clock.set(NOW + DAY + 7200_000 - 5000, "I", 50)


def test_a_set_clock_waits_for_the_end_of_an_edge():
    clock, ticks = _clock(NOW)
    clock.hold()
    clock.hold()
    assert clock.set(NOW + DAY, "I", 50, source="sntp") is None
    ticks.now += 1000
    assert clock.now() == (NOW + 1000, "U")
    clock.release()
    assert clock.quality == "U"
    clock.release()
    assert clock.now() == (NOW + DAY + 1000, "I")
    clock.hold()
    clock.release()
    assert clock.now() == (NOW + DAY + 1000, "I") and clock.steps == 0


def test_steps_over_a_minute_are_told():
    clock, ticks = _clock(NOW)
    told = []
    clock.on_step = lambda step_ms, source: told.append((step_ms, source))
    ticks.now = 5000
    clock.set(NOW + 65000, "I", 20, source="battery")
    clock.set(NOW + 65000 + 60000, "I", 30, source="sntp")
    assert told == [] and clock.steps == 0
    clock.set(NOW + 65000 + 120001, "I", 30, source="sntp")
    assert told == [(60001, "sntp")] and clock.steps == 1
    clock.set(NOW + 65000 + 120001, "S", 30, source="sntp")
    assert [(event, fields["q"], fields["step_ms"]) for event, _, fields in clock.notes] == [
        ("clock_bound", "I", 60000), ("clock_step", "I", 60001), ("clock_bound", "S", 0)]
    assert clock.notes[0][1:] == (5000, {
        "mono_ms": 5000, "unix_ms": NOW + 65000, "q": "I", "unc_ms": 20, "step_ms": 60000,
        "src": "battery"})


def test_notes_that_nobody_takes_are_bounded():
    clock, _ = _clock(NOW)
    for number in range(20):
        clock.set(NOW + number * 120000, "I", 20)
    assert len(clock.notes) == 8
    assert clock.notes[-1][2]["unix_ms"] == NOW + 19 * 120000


def test_last_resorts_are_taken_only_where_nothing_is_known():
    clock, ticks = _clock(NOW)
    clock.limit(3600, 7200)
    assert clock.offer(NOW + 1000, 60000, "battery")
    assert (clock.source, clock.uncertainty_ms) == ("battery", 60000)
    assert not clock.offer(NOW + DAY, 60000, "backend")
    _pass(ticks, clock, 7201_000)
    assert "newest record" in str(raises(ValueError, clock.offer, NOW, 60000, "backend"))
    assert clock.offer(NOW + DAY, 60000, "backend")


def test_2036_2038_and_a_leap_second_are_steps_like_others():
    for unix_s in (2085978495, 2147483647, 4294967295):
        clock, ticks = _clock(NOW)
        clock.set(unix_s * 1000 + 999, "S", 20)
        ticks.now += 1
        assert clock.now() == (unix_s * 1000 + 1000, "S")
    # the leap second: Unix time is a second behind from here on
    before = clock.mono_ms()
    assert clock.set(clock.now()[0] - 1000, "S", 20) == -1000
    assert clock.mono_ms() == before and clock.quality == "S"
