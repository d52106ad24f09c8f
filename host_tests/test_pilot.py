from evmeter.session import pilot
from evmeter.session.pilot import A, B, C, D, E, F, PilotFilter


def test_levels_with_dead_bands():
    for high_mv, previous, expected in (
        (12000, E, A), (11000, B, A), (10500, A, A), (10500, B, B), (10000, A, B),
        (9000, A, B), (8000, C, B), (7500, B, B), (7500, C, C), (7000, B, C),
        (6000, B, C), (5000, D, C), (4500, C, C), (4500, D, D), (3900, C, D),
        (3000, C, D), (2300, E, D), (1900, D, D), (1900, E, E), (1500, D, E),
        (0, A, E), (-500, A, E), (-9000, A, E), (-10600, A, F), (-12000, A, F),
    ):
        assert pilot.classify(high_mv, -12000, True, previous) == expected, (high_mv, previous)


def test_a_missing_diode_is_seen():
    for high_mv, low_mv, pwm, expected in (
        (9000, -12000, True, False), (6000, -12000, True, False), (9000, -9000, True, True),
        (6000, -5500, True, True), (9000, 9000, False, False), (1000, -1000, True, False),
        (12000, -10700, True, False),
    ):
        assert pilot.diode_missing(high_mv, low_mv, pwm) == expected, (high_mv, low_mv)


def test_a_change_counts_after_two_equal_windows_and_is_dated_back():
    filtered = PilotFilter()
    at = 0
    log = []
    for high_mv, pwm in (
        (12000, False), (12000, False),      # A from 0
        (9000, False), (12000, False),       # one window: nothing
        (9000, False), (9000, False),        # B from 200
        (9000, True), (9000, True),          # offer: B2, still since 200
        (6000, True), (9000, True), (6000, True), (6000, True),  # C from 500
        (-12000, False), (-12000, False),
    ):
        if filtered.window(high_mv, -12000 if pwm else high_mv, pwm, at):
            log.append((filtered.state, filtered.pwm, filtered.since_ms))
        at += 50
    assert log == [(A, False, 0), (B, False, 200), (B, True, 200), (C, True, 500),
                   (F, False, 600)], log


def test_nothing_is_believed_before_two_windows_agree():
    filtered = PilotFilter()
    for index, high_mv in enumerate((12000, 9000, 6000, 3000, 12000)):
        assert not filtered.window(high_mv, high_mv, False, index * 50)
        assert filtered.state is None
    assert filtered.window(12000, 12000, False, 300)
    assert (filtered.state, filtered.since_ms) == (A, 200)
    assert D == 3
