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
