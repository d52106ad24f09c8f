from evmeter.session import pilot
from evmeter.session.pilot import A, B, C, D, E, F, PilotFilter


def test_levels_with_dead_bands():
    for high_mv, previous, expected in (
        (12000, E, A), (11000, B, A), (10500, A, A), (10500, B, B), (10000, A, B), (10100, A, A),
        (10099, A, B), (10900, B, A), (10899, B, B), (9000, A, B), (8000, C, B), (7500, B, B),
        (7500, C, C), (7500, A, B), (7500, D, C), (7000, B, C), (6000, B, C), (5000, D, C),
        (4500, C, C), (4500, A, C), (4500, D, D), (4500, E, D), (3900, C, D), (3000, C, D),
        (2300, E, D), (2300, A, D), (2299, A, E), (2299, C, E), (2150, D, D), (2149, D, E),
        (1900, E, E), (1500, D, E), (0, A, E), (-500, A, E), (-9000, A, E), (-9999, F, E),
        (-10000, A, F), (-12000, A, F), (12000, F, A),
    ):
        assert pilot.classify(high_mv, previous) == expected, (high_mv, previous)


def test_a_missing_diode_is_seen():
    for high_mv, low_mv, pwm, expected in (
        (9000, -12000, True, False), (6000, -12000, True, False), (9000, -9000, True, True),
        (6000, -5500, True, True), (9000, 9000, False, False), (1000, -1000, True, False),
        (12000, -10700, True, False), (12000, -12000, True, False), (9560, -10700, True, False),
        (3000, -3000, True, True), (9000, -7700, True, False), (6000, -7200, True, True),
    ):
        assert pilot.diode_missing(high_mv, low_mv, pwm) == expected, (high_mv, low_mv)


def test_offered_current_at_every_border():
    for duty, expected in (
        (None, None), (0, 0), (29, 0), (30, None), (50, None), (70, None), (71, 0), (79, 0),
        (80, 6000), (99, 6000), (100, 6000), (101, 6060), (267, 16020), (500, 30000),
        (533, 31980), (850, 51000), (851, 52750), (900, 65000), (960, 80000), (961, 80000),
        (970, 80000), (971, 0), (1000, 0),
    ):
        assert pilot.offered_ma(duty) == expected, duty
        assert pilot.digital(duty) == (duty in (30, 50, 70)), duty


def _play(windows, filtered=None, step_ms=50):
    """Play (high mV or None, PWM) rows; returns what was believed from when on."""
    filtered = filtered or PilotFilter()
    log = []
    for index, (high_mv, pwm) in enumerate(windows):
        if filtered.window(high_mv, -12000 if pwm else high_mv, pwm, index * step_ms):
            log.append((filtered.state, filtered.pwm, filtered.since_ms))
    return log


def test_a_change_counts_after_two_equal_windows_and_is_dated_back():
    assert _play((
        (12000, False), (12000, False),      # A from 0
        (9000, False), (12000, False),       # one window: nothing
        (9000, False), (9000, False),        # B from 200
        (9000, True), (9000, True),          # offer: B2, still since 200
        (6000, True), (9000, True), (6000, True), (6000, True),  # C from 500
        (-12000, False), (-12000, False),
    )) == [(A, False, 0), (B, False, 200), (B, True, 200), (C, True, 500), (F, False, 600)]


def test_nothing_is_believed_before_two_windows_agree():
    filtered = PilotFilter()
    assert _play([(high_mv, False) for high_mv in (12000, 9000, 6000, 3000, 12000)],
                 filtered) == []
    assert filtered.state is None
    assert filtered.window(12000, 12000, False, 300)
    assert filtered.state == A


def test_what_lies_between_two_levels_is_no_state_and_dates_the_change():
    steady = [(12000, False)] * 3
    for between in (
        [(None, False)], [(9000, False)], [(None, True), (None, False)],
        [(9500, False), (8600, False)],       # a ramp: both would be B
        [(10300, False), (8200, False), (7200, False)],
        [(9000, True), (None, False), (9000, False)],
    ):
        log = _play(steady + between + [(6000, True)] * 3)
        assert log == [(A, False, 0), (C, True, 150)], (between, log)
    # a level that is still on its way after 300 ms: the first window of the state
    log = _play(steady + [(None, False)] * 6 + [(6000, True)] * 2)
    assert log == [(A, False, 0), (C, True, 150)], log
    log = _play(steady + [(None, False)] * 7 + [(6000, True)] * 2)
    assert log == [(A, False, 0), (C, True, 500)], log
    # and a step back takes the date along
    log = _play(steady + [(None, False), (12000, False), (6000, True), (6000, True)])
    assert log == [(A, False, 0), (C, True, 250)], log


def test_the_same_state_at_another_level_changes_nothing():
    assert _play([(9000, True)] * 3 + [(7400, True)] * 3 + [(8900, True)] * 3
                 + [(6000, True)] * 2) == [(B, True, 0), (C, True, 450)]


def test_a_state_is_held_as_long_as_windows_show_it():
    filtered = PilotFilter()
    for at_ms, high_mv, seen_ms in (
        (0, 12000, 0), (50, 12000, 50), (100, 12000, 100), (150, None, 100), (200, 9000, 100),
        (250, 9000, 250), (300, 9000, 300), (350, 12000, 300), (400, 7500, 400), (450, None, 400),
        (500, 12000, 400), (550, 12000, 550),
    ):
        filtered.window(high_mv, high_mv, False, at_ms)
        assert filtered.seen_ms == seen_ms, at_ms


def test_state_f_takes_50_ms():
    for step_ms, windows in ((10, 6), (25, 3), (49, 3), (50, 2), (60, 2)):
        log = _play([(12000, False)] * 9 + [(-12000, False)] * (windows - 1), None, step_ms)
        assert [row[0] for row in log] == [A], step_ms
        log = _play([(12000, False)] * 9 + [(-12000, False)] * windows, None, step_ms)
        assert [row[0] for row in log] == [A, F], step_ms
        assert log[-1][2] == 9 * step_ms


def test_flags_are_believed_like_states():
    filtered = PilotFilter()
    for high_mv, low_mv, pwm, changed, diode, weak, short in (
        (9000, -12000, True, False, False, False, False),
        (9000, -12000, True, True, False, False, False),
        (9000, -10800, True, False, False, True, False),
        (9000, -8800, True, False, False, True, False),
        (9000, -9000, True, True, True, True, False),
        (9000, -12000, True, False, True, True, False),
        (9000, -11500, True, True, False, False, False),
        (0, 0, False, False, False, False, False),
        (100, 100, False, True, False, False, True),
        (400, -12000, True, False, False, False, True),
        (400, -12000, True, True, False, False, False),
    ):
        assert filtered.window(high_mv, low_mv, pwm, 0) == changed, (high_mv, low_mv)
        assert (filtered.diode_fault, filtered.low_weak, filtered.cp_short) == (
            diode, weak, short), (high_mv, low_mv)
    assert D == 3
