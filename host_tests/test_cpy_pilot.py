"""The pilot's campaign: a sample, its controls, and that it is the same each time."""

import pytest

from evmeter_tools.errors import UserError
from evmeter_tools.measure import pilot, stall


def test_a_sample_of_the_campaign():
    result = pilot.run(6000, control_windows=0)
    assert result.texts == []
    assert result.trials >= 6000
    assert result.counts["sessions"] > 15


@pytest.mark.parametrize("name", sorted(pilot.CONTROLS))
def test_a_wrong_design_is_noticed(name):
    assert pilot.caught(pilot.campaign(5000, pilot.CONTROLS[name]))


def test_a_campaign_without_a_session_proves_nothing():
    found = pilot.Found()
    assert not pilot.caught(found)
    found.stops = [0] * 99 + [-101] * 2
    assert pilot.caught(found)


def test_the_same_seed_gives_the_same_windows():
    first, again, other = (pilot.campaign(600, seed=seed) for seed in (1, 1, 2))
    assert (first.windows, first.stops, first.starts) == (again.windows, again.stops, again.starts)
    assert first.starts != other.starts


def test_gaps_are_read_from_the_log():
    log = "2026 boot\nusual 52\nlongest 60 after 41 windows\nx\nlongest 99 after 300 windows\n"
    assert stall.gaps(log) == (52, 99)
    for wrong in ("", "usual 52\n", "evmeter: configuration: id"):
        with pytest.raises(UserError, match=wrong.strip() or "no times"):
            stall.gaps(wrong)
