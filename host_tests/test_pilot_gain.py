from drivers.control_pilot import ControlPilot
from drivers.pilot_edges import PilotEdges
from fakes.pilot_adc import Adc

_WINDOWS = 200


def _held(levels, gain, windows=_WINDOWS, front_end="fe3", top_uv=3300000):
    adc = Adc(front_end, levels, gain=gain, top_uv=top_uv)
    pilot = ControlPilot(adc, front_end)
    for _ in range(windows):
        pilot.sample()
    return pilot, adc


def test_state_a_corrects_the_gain_and_no_sooner_than_it_is_held():
    pilot, adc = _held((12000, 12000, 100), 95, _WINDOWS - 1)
    assert pilot.a_mv == 12000
    pilot.sample()
    assert abs(pilot.a_mv - 11400) <= 20, pilot.a_mv
    pilot.sample()
    assert abs(pilot.high_mv - 12000) <= 60, pilot.high_mv
    adc.levels = [(0, 6000, -12000, 27)]
    pilot.sample()
    assert abs(pilot.high_mv - 6000) <= 60, pilot.high_mv
    assert abs(pilot.low_mv + 12000) <= 60, pilot.low_mv
    again = ControlPilot(adc, "fe3", a_mv=pilot.a_mv)
    again.sample()
    assert abs(again.high_mv - 6000) <= 60, again.high_mv


def test_a_window_of_spikes_does_not_end_state_a_and_three_do():
    for odd, corrected in ((1, True), (2, True), (3, False)):
        adc = Adc("fe3", (12000, 12000, 100), gain=95)
        pilot = ControlPilot(adc, "fe3")
        for window in range(_WINDOWS + 10):
            level_mv = 12000 if not 100 <= window < 100 + odd else 7000
            adc.levels = [(0, level_mv, level_mv, 100)]
            pilot.sample()
        assert (pilot.a_mv != 12000) == corrected, odd


def test_nothing_but_state_a_corrects_the_gain():
    for levels, gain in (
        ((9560, 9560, 100), 115), ((9000, -12000, 50), 100), ((12000, -12000, 50), 95),
        ((0, 0, 100), 95), ((-12000, -12000, 100), 95), ((6000, 6000, 100), 100),
        ((12000, 12000, 100), 91), ((12000, 12000, 100), 109), ((9000, -9000, 50), 100),
    ):
        pilot, _ = _held(levels, gain)
        assert pilot.a_mv == 12000, (levels, gain)


def test_a_level_that_wanders_or_stands_at_the_rail_corrects_nothing():
    adc = Adc("fe3", (12000, 12000, 100), gain=96)
    pilot = ControlPilot(adc, "fe3")
    for window in range(3 * _WINDOWS):
        adc.levels = [(0,) + (12000 + 4 * (window % 150),) * 2 + (100,)]
        pilot.sample()
    assert pilot.a_mv == 12000
    pilot, _ = _held((12000, 12000, 100), 103, front_end="fe2", top_uv=3100000)
    assert pilot.saturated
    assert (pilot.a_mv, pilot.high_mv) == (12000, 11600)
    pilot, _ = _held((12000, 12000, 100), 97, front_end="fe2", top_uv=3300000)
    assert not pilot.saturated
    assert abs(pilot.a_mv - 11640) <= 20


def test_a_stored_level_out_of_bounds_is_not_taken():
    for a_mv, expected in ((11039, 12000), (11040, 11040), (12960, 12960), (12961, 12000),
                           (0, 12000), (-5, 12000)):
        assert ControlPilot(Adc("fe3", (0, 0, 100)), "fe3", a_mv=a_mv).a_mv == expected, a_mv


def test_duty_from_edges():
    for high, widths, expected in (
        (1, {1: (533,), 0: (467,)}, 533), (0, {0: (267,), 1: (733,)}, 267),
        (1, {1: (50,), 0: (950,)}, 50), (1, {1: (963,), 0: (43,)}, 957),
        (1, {1: (533, 533), 0: (499, 468)}, 532),           # an interrupt in one
        (1, {1: (533,) * 3, 0: (499,) * 3}, None),
        (1, {1: (-2,), 0: (467,)}, None), (1, {1: (500,), 0: (-1,)}, None),
    ):
        left = {level: list(row) for level, row in widths.items()}

        def pulse_us(pin, level, timeout_us):
            assert pin == "pin" and timeout_us >= 2000
            return left[level].pop(0)

        assert PilotEdges("pin", pulse_us, high).duty_permille() == expected, widths
