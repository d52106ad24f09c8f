import gc

from drivers.control_pilot import ControlPilot
from drivers.pilot_front_end import FRONT_ENDS, front_end_data
from fakes.pilot_adc import Adc
from support import raises


def _sampled(adc, front_end="fe3", **more):
    pilot = ControlPilot(adc, front_end, **more)
    pilot.sample()
    return pilot


def test_levels_and_pwm_through_each_front_end():
    for front_end in ("fe1", "fe2", "fe3", {"zero_uv": 1500000, "uv_per_v": 100000}):
        for high_mv, low_mv, duty, pwm in (
            (12000, 12000, 100, False), (9000, -12000, 50, True), (6000, -12000, 10, True),
            (6000, -12000, 96, True), (6000, 6000, 100, False), (3000, -10700, 27, True),
            (0, 0, 100, False), (-12000, -12000, 100, False), (9000, -9000, 53, True),
            (9000, -12000, 5, True), (12000, -12000, 5, True), (3000, -3000, 50, True),
            (0, -12000, 30, True), (-30, -30, 100, False), (-800, -800, 100, False),
        ):
            pilot = _sampled(Adc(front_end, (high_mv, low_mv, duty)), front_end)
            assert pilot.pwm == pwm, (front_end, high_mv, duty)
            assert abs(pilot.high_mv - high_mv) <= 60, (front_end, high_mv, pilot.high_mv)
            assert abs(pilot.low_mv - low_mv) <= 60, (front_end, low_mv, pilot.low_mv)
            assert abs(pilot.duty_permille_estimate - 10 * duty) <= 20, duty


def test_narrow_pulses_are_found_in_every_window():
    for duty in (5, 96):
        adc = Adc("fe3", (6000, -12000, duty), noise_mv=200)
        pilot = ControlPilot(adc, "fe3")
        for window in range(100):
            pilot.sample()
            assert pilot.pwm, (duty, window)
            assert abs(pilot.high_mv - 6000) < 250, (duty, window, pilot.high_mv)
            assert abs(pilot.low_mv + 12000) < 250, (duty, window, pilot.low_mv)


def test_noise_and_spikes_do_not_move_the_levels():
    for duty, pwm in ((30, True), (5, True), (100, False)):
        adc = Adc("fe3", (6000, -12000, duty), noise_mv=300)
        for read, mv in ((3, 9000), (40, 9000), (60, -9000), (99, -7000), (150, 9000),
                         (200, -9000), (220, 20000), (249, -9000)):
            adc.spikes[read] = mv
        pilot = _sampled(adc)
        assert pilot.pwm == pwm, duty
        assert abs(pilot.high_mv - 6000) < 250, (duty, pilot.high_mv)
        assert abs(pilot.low_mv - (-12000 if pwm else 6000)) < 250, (duty, pilot.low_mv)


def test_a_level_that_changes_inside_a_window_is_no_level():
    for at_ms in (2, 3, 5, 7, 8):
        for old, new in (
            ((12000, 12000, 100), (6000, -12000, 27)), ((6000, -12000, 27), (12000, 12000, 100)),
            ((12000, 12000, 100), (6000, 6000, 100)), ((6000, -12000, 50), (-12000, -12000, 100)),
            ((9000, 9000, 100), (0, 0, 100)), ((-12000, -12000, 100), (9000, -12000, 50)),
        ):
            pilot = _sampled(Adc("fe3", [(0,) + old, (at_ms,) + new]))
            assert pilot.high_mv is None or min(
                abs(pilot.high_mv - old[0]), abs(pilot.high_mv - new[0])) < 60, (
                    at_ms, old, new, pilot.high_mv)
        # the offer that comes or goes is no change of the level
        for old, new in (((9000, 9000, 100), (9000, -12000, 27)),
                         ((6000, -12000, 96), (6000, 6000, 100))):
            pilot = _sampled(Adc("fe3", [(0,) + old, (at_ms,) + new]))
            assert abs(pilot.high_mv - old[0]) < 60
    assert _sampled(Adc("fe3", [(0, 12000, 12000, 100), (5, 6000, 6000, 100)])).high_mv is None


def test_a_rare_positive_sample_is_not_state_f():
    adc = Adc("fe3", (-12000, -12000, 100))
    adc.spikes[100] = 18000
    assert _sampled(adc).high_mv is None


def test_reads_are_jittered_enough_and_spread_over_ten_periods():
    pauses = []
    adc = Adc("fe3", (9000, -12000, 50))
    pilot = ControlPilot(adc, "fe3", pauses.append)
    pilot.sample()
    assert adc.reads == 250
    assert len(set(pauses)) > 10
    assert max(pauses) <= 15
    for _ in range(30):
        pilot.sample()
    assert sum(pauses[-250:]) > 3000  # the ADC of this test takes no time
    assert max(pauses) <= 75


def test_duty_comes_from_edges_only():
    class Edges:
        permille = 533

        def duty_permille(self):
            return self.permille

    for duty, edges, expected in ((53, Edges(), 533), (53, None, None), (100, Edges(), 1000)):
        pilot = _sampled(Adc("fe3", (9000, -12000, duty)), edges=edges)
        assert pilot.duty_permille == expected, (duty, expected)


def test_an_unknown_front_end_is_refused_with_what_is_allowed():
    for wrong, words in (
        ("fe9", ("fe9", "fe1, fe2, fe3")), (None, ("fe1, fe2, fe3",)), ({}, ("zero_uv", "None")),
        ({"zero_uv": 1300000}, ("uv_per_v",)), ({"zero_uv": True, "uv_per_v": 1}, ("zero_uv",)),
        ({"zero_uv": 1300000, "uv_per_v": 19999}, ("20000",)),
        ({"zero_uv": 1300000, "uv_per_v": 88500, "x": 1}, ("x",)),
        ({"zero_uv": 1300000, "uv_per_v": 120000}, ("-140000", "3300000")),
        ({"zero_uv": 2500000, "uv_per_v": 88500}, ("3562000",)),
    ):
        message = str(raises(ValueError, front_end_data, wrong))
        for word in words:
            assert word in message, (wrong, message)
    assert front_end_data("fe1") == FRONT_ENDS["fe1"]


def test_a_window_allocates_nothing():
    adc = Adc("fe3", (9000, -12000, 50))
    pilot = ControlPilot(adc, "fe3")
    pilot._read_uv = adc.quick_uv
    pilot._pace_us = adc.pace_us
    for _ in range(3):
        pilot.sample()
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    for _ in range(20):
        pilot.sample()
    after = gc.mem_alloc()
    gc.enable()
    assert after - before < 64, after - before  # the counts' own
