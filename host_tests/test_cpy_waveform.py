"""The emulated pilot's waveform, sample by sample."""

import pytest

from drivers.pilot_front_end import FRONT_ENDS as DRIVER_FRONT_ENDS
from evmeter_tools.bench import waveform
from evmeter_tools.bench.waveform import Waveform

_QUIET = {"noise_mv": 0}


def _pilot(found, at_ms=0):
    """One window in whole mV on the pilot."""
    return [round((value - found._zero_mv) * 1000 / found._gain_per_v)
            for value in found.window(at_ms)]


def _levels(found, at_ms=0):
    """The levels of a window on the pilot, to 20 mV, without repetition."""
    return sorted({round(value / 20) * 20 for value in _pilot(found, at_ms)})


def test_the_front_ends_are_those_of_the_driver():
    assert waveform.FRONT_ENDS == {
        name: (zero_uv / 1000, uv_per_v / 1000)
        for name, (zero_uv, uv_per_v) in DRIVER_FRONT_ENDS.items()}


@pytest.mark.parametrize("front_end", ["fe1", "fe2", "fe3", (1500, 100)])
def test_every_state_through_every_front_end(front_end):
    found = Waveform(front_end, **_QUIET)
    zero_mv, per_v = waveform.FRONT_ENDS.get(front_end, front_end)
    for state, level_mv in waveform.LEVEL_MV.items():
        for duty in (5, 50, 100):
            found.set(state=state, duty_percent=duty)
            pulsed = state in "BCD" and duty < 100
            expected = {level_mv, -12000} if pulsed else {level_mv}
            pins = {int(zero_mv + mv * per_v / 1000 + 0.5) for mv in expected}
            assert set(found.window()) == pins


@pytest.mark.parametrize("duty", [5, 10, 50, 96])
def test_the_share_of_high_samples_is_the_duty(duty):
    found = Waveform(state="C", duty_percent=duty)
    samples = [value for _ in range(200) for value in found.window()]
    assert abs(sum(value > 1300 for value in samples) / len(samples) - duty / 100) < 0.005


@pytest.mark.parametrize(("settings", "levels"), [
    ({"low_mv": -10700}, [-10700, 6000]),
    ({"level_mv": 5480}, [-12000, 5480]),
    ({"diode": False}, [-6000, 6000]),
    ({"cp": "short"}, [0]),
    ({"cp": "cut"}, [1420]),  # 1300 mV / (1 - 0.0885)
    ({"cp": "cut", "idle_mv": 1300}, [0]),
    ({"state": "F", "low_mv": -10700}, [-10700]),
])
def test_what_can_be_wrong_with_the_pilot(settings, levels):
    assert _levels(Waveform(**{"state": "C", "duty_percent": 50, **_QUIET, **settings})) == levels


def test_a_level_of_its_own_ends_with_the_state():
    found = Waveform(state="B", level_mv=8400, **_QUIET)
    found.set(state="B", low_mv=-11000)
    assert _levels(found) == [8400]
    found.set(state="C")
    assert _levels(found) == [6000]
    found.set(state="B", level_mv=9500)
    assert _levels(found) == [9500]


def test_what_can_be_wrong_with_front_end_and_adc():
    expected = {("offset_mv", 30): 1300 + 531 + 30, ("gain", 0.9): 1300 + 477.9,
                ("adc_gain", 0.9): (1300 + 531) * 0.9, ("top_mv", 1500): 1500}
    for (name, value), pin_mv in expected.items():
        found = Waveform(state="C", **_QUIET, **{name: value})
        assert set(found.window()) == {int(pin_mv + 0.5)}, name
    assert set(Waveform(state="F", offset_mv=-1000, **_QUIET).window()) == {0}


def test_noise_and_spikes_are_as_large_and_as_many_as_said():
    found = Waveform(state="B", noise_mv=20)
    values = [value - (1300 + 9 * 88.5) for _ in range(40) for value in found.window()]
    assert abs(sum(values) / len(values)) < 1
    assert abs((sum(value**2 for value in values) / len(values)) ** 0.5 - 20) < 1
    found = Waveform(state="B", spikes=5, spike_mv=500, **_QUIET)
    windows = [found.window() for _ in range(200)]
    off = [value - 2097 for window in windows for value in window if value != 2097]
    assert 900 < len(off) < 1100
    assert -500 <= min(off) < -480
    assert 480 < max(off) <= 500


def test_a_change_counts_from_its_time_on_and_takes_its_ramp():
    found = Waveform(state="B", **_QUIET)
    found.set(1005, state="C")
    assert _levels(found, 994) == [9000]
    assert _levels(found, 1000) == [6000, 9000]
    assert _levels(found, 1005) == [6000]
    found.set(2000, state="A", ramp_ms=40)
    window = _pilot(found, 2010)  # 10 to 20 ms after the change
    assert window == sorted(window)
    assert 7450 < window[0] < 7560
    assert 8850 < window[-1] < 9150
    assert _levels(found, 2040) == [12000]
    found.set(3000, state="E")
    found.set(3020, state="A")  # half way down: up again from there
    assert 6000 <= _pilot(found, 3020)[0] < 6020
    found.set(3030, noise_mv=0)  # no change of level: the ramp goes on
    assert 9000 <= _pilot(found, 3040)[0] < 9020


def test_slow_edges_of_the_pwm_are_seen_between_the_levels():
    found = Waveform(state="C", duty_percent=50, slew_us=100, **_QUIET)
    values = [value for _ in range(100) for value in _pilot(found)]
    between = [value for value in values if -11900 < value < 5900]
    assert abs(len(between) / len(values) - 0.2) < 0.02
    assert min(values) >= -12010
    assert max(values) <= 6010
    quarters = [sum(low <= value < low + 4500 for value in between)
                for low in range(-12000, 6000, 4500)]
    assert min(quarters) > 0.8 * max(quarters)


def test_the_same_seed_gives_the_same_samples():
    windows = [[Waveform(seed=seed, state="C", duty_percent=30).window() for _ in range(1)][0]
               for seed in (1, 1, 2)]
    assert windows[0] == windows[1] != windows[2]
    assert len(windows[0]) == waveform.SAMPLES


@pytest.mark.parametrize("wrong", [
    {"state": "G"}, {"state": None}, {"duty_percent": 101}, {"noise_mv": "4"}, {"cp": "open"},
    {"diode": 1}, {"gain": True}, {"bogus": 1}, {"low_mv": None}, {"spikes": float("nan")},
    {"state": ["A"]}])
def test_a_wrong_setting_changes_nothing(wrong):
    found = Waveform(state="C")
    before = dict(found.settings)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        found.set(level_mv=100, **wrong)
    assert found.settings == before
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Waveform(**wrong)


def test_a_front_end_that_there_is_not():
    with pytest.raises(ValueError, match="fe1, fe2, fe3"):
        Waveform("fe9")
