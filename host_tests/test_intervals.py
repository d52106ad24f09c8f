from evmeter.metering.intervals import CLOCK, LONG_S, OK, PARTIAL, Intervals

_T0 = 1_790_000_100  # a quarter of an hour: 1_790_000_100 % 900 == 0


def _run(intervals, rows):
    """Feed (unix s, register, power, clock known) with mono time = unix time unless given."""
    found = []
    for row in rows:
        unix_s, register_mwh, power_mw = row[:3]
        known = row[3] if len(row) > 3 else True
        mono_ms = row[4] if len(row) > 4 else (unix_s - _T0) * 1000 + 5_000_000
        intervals.reading(register_mwh, power_mw, mono_ms, unix_s, known)
        if intervals.closed:
            found.append(intervals.closed)
            intervals.written()
    return found


def _steady(begin_s, end_s, register_mwh=0, power_mw=3_600_000, every_s=10):
    return [(_T0 + second, register_mwh + power_mw * (second - begin_s) // 3600, power_mw)
            for second in range(begin_s, end_s, every_s)]


def test_intervals_are_aligned_and_add_up():
    assert _T0 % 900 == 0
    found = _run(Intervals(), _steady(300, 4000))
    assert [row[0] - _T0 for row in found] == [0, 900, 1800, 2700]
    assert [row[5] for row in found] == [PARTIAL, OK, OK, OK]
    assert [row[3] for row in found] == [600_000, 900_000, 900_000, 900_000]
    assert all(row[1] == 900 and row[4] == 3_600_000 for row in found)
    assert found[0][2] == 0
    assert sum(row[3] for row in found) == 3_300_000
    for before, after in zip(found, found[1:]):
        assert before[2] + before[3] == after[2]


def test_energy_over_a_reboot_lands_in_the_first_interval_after_it():
    found = _run(Intervals(1_000_000), _steady(0, 1000, 1_250_000))
    assert found == [(_T0, 900, 1_000_000, 250_000 + 900_000, 3_600_000, PARTIAL)]


def test_holes_and_unknown_clocks_are_said():
    rows = _steady(0, 400) + _steady(500, 1800, 500_000)
    assert [row[5] for row in _run(Intervals(), rows)] == [PARTIAL]
    rows = [row + (row[0] - _T0 > 500,) for row in _steady(0, 1900)]
    assert [row[5] for row in _run(Intervals(), rows)] == [CLOCK, OK]


def test_clock_steps_lose_no_energy():
    for step_s in (-86400, -1000, 1000, 86400 * 365):
        rows = []
        for second in range(0, 3600, 10):
            shift_s = step_s if second >= 1200 else 0
            rows.append((_T0 + second + shift_s, second * 1000, 3_600_000, True, second * 1000))
        found = _run(Intervals(), rows)
        energies = [row[3] for row in found]
        assert CLOCK in [row[5] for row in found], step_s
        assert found[0][2] == 0
        for before, after in zip(found, found[1:]):
            assert before[2] + before[3] == after[2]
        assert sum(energies) == found[-1][2] + found[-1][3]


def test_an_outage_of_the_meter_over_several_slots_is_one_step():
    rows = _steady(0, 800) + _steady(4000, 5500, 4_000_000)
    found = _run(Intervals(), rows)
    assert [(row[0] - _T0, row[5]) for row in found] == [(0, PARTIAL), (3600, PARTIAL),
                                                         (4500, OK)][: len(found)]
    assert found[0][3] == 4_000_000


def test_a_register_that_goes_on_from_elsewhere_makes_no_energy():
    for jump_mwh in (-500_000, 7_000_000):
        intervals = Intervals()
        _run(intervals, _steady(0, 500, 600_000))
        intervals.rebase(jump_mwh)
        found = _run(intervals, _steady(500, 1000, 1_100_000 + jump_mwh))
        assert found == [(_T0, 900, 600_000 + jump_mwh, 900_000, 3_600_000, PARTIAL)]


def test_what_cannot_be_written_is_merged():
    intervals = Intervals()
    for unix_s, register_mwh, power_mw in _steady(0, 3700):
        intervals.reading(register_mwh, power_mw, (unix_s - _T0) * 1000, unix_s, True)
    assert intervals.closed == (_T0, 3600, 0, 3_600_000, 3_600_000, PARTIAL)


def test_longer_intervals_say_how_long_they_are():
    intervals = Intervals()
    intervals.length_s = LONG_S
    hour = _T0 - _T0 % 3600
    rows = [(hour + second, second * 1000, 0, True, second * 1000)
            for second in range(0, 7300, 60)]
    assert [(row[0] - hour, row[1], row[5]) for row in _run(intervals, rows)] == [
        (0, 3600, OK), (3600, 3600, OK)]
