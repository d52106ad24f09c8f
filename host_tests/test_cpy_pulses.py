"""The emulated S0 output: how many pulses, when, and what the firmware's driver makes of them."""

import itertools

import pytest

from drivers.pulse_meter import EdgeQualifier
from evmeter_tools.bench.pulses import LEAD_MS, PulseOutput, PulseTrain
from fakes.pulses import Ticks


def _run(train, load_w, ms, step_ms=20, begin_ms=1000):
    """The edges of a load that lasts `ms`, and then none."""
    edges = train.edges(begin_ms)
    train.set_load(load_w, begin_ms)
    for now_ms in range(begin_ms, begin_ms + ms + 1, step_ms):
        edges += train.edges(now_ms)
    train.set_load(0, begin_ms + ms)
    return edges + train.edges(begin_ms + ms)


def _qualified(edges):
    ticks = Ticks()
    found = EdgeQualifier(1, 0, ticks=ticks)
    for at_ms, level in edges:
        found.edge(level, at_ms)
    found.settle(edges[-1][0] + 1000)
    return found


def _in_order(edges):
    return all(later[0] > earlier[0] and later[1] != earlier[1]
               for earlier, later in itertools.pairwise(edges))


def test_the_pulses_are_what_the_energy_is_worth_at_their_time():
    # 7200 W at 1000 imp/kWh: a pulse every 500 ms
    edges = _run(PulseTrain(1000), 7200, 10_000)
    assert edges == [edge for index in range(1, 21)
                     for edge in ((1000 + 500 * index + LEAD_MS, 0),
                                  (1030 + 500 * index + LEAD_MS, 1))]


@pytest.mark.parametrize("load_w", [1, 1381, 7361, 11000, 22000])
@pytest.mark.parametrize("imp", [1, 500, 1000, 1600])
@pytest.mark.parametrize("step_ms", [7, 20, 3000])
def test_no_energy_is_lost_in_steps(load_w, imp, step_ms):
    train = PulseTrain(imp)
    edges = _run(train, load_w, 600_000, step_ms)
    assert train.due == load_w * 600 * imp // 3_600_000
    assert train.sent == train.due == len(edges) // 2
    assert _in_order(edges)


@pytest.mark.parametrize("settings", [
    {}, {"bounces": 2}, {"bounces": 5, "bounce_ms": 2}, {"break_ms": 5}, {"low_ms": 100},
    {"glitches": 9}, {"bounces": 1, "break_ms": 14, "low_ms": 20, "glitches": 3}])
def test_what_a_contact_does_wrong_costs_a_good_driver_nothing(settings):
    train = PulseTrain(1000, **settings)
    edges = _run(train, 11000, 60_000)
    assert _in_order(edges)
    found = _qualified(edges)
    assert found.pulses == train.due == 183
    unclean = set(settings) - {"low_ms"}
    assert (found.rejected > 0) == bool(unclean)
    # the negative control: who counts falling edges is fooled
    assert (sum(level == 0 for _, level in edges) > train.due) == bool(unclean)


@pytest.mark.parametrize(("settings", "sent"), [
    ({"double_every": 10}, 110), ({"lose_every": 10}, 90), ({"lose_every": 1}, 0),
    ({"double_every": 4, "lose_every": 5}, 100)])  # 20 of 100 lost, 25 - 5 doubled
def test_pulses_that_are_doubled_and_lost(settings, sent):
    train = PulseTrain(1000, **settings)
    edges = _run(train, 7200, 50_000)
    assert (train.due, train.sent) == (100, sent)
    assert _in_order(edges)
    if edges:
        assert _qualified(edges).pulses == sent


def test_pulses_too_fast_for_their_width_queue_up():
    train = PulseTrain(10_000, low_ms=60)
    edges = _run(train, 22_000, 6000)
    assert _in_order(edges)
    assert _qualified(edges).pulses == train.due == 366


def test_after_a_stall_no_edge_is_late():
    train = PulseTrain(1000)
    train.edges(1000)
    train.set_load(7200, 1000)
    edges = train.edges(9000)
    assert len(edges) == 32
    assert edges[0][0] > 9000
    assert _in_order(edges)


@pytest.mark.parametrize("wrong", [
    {"low_ms": 0}, {"bounces": 6}, {"bounces": 1.5}, {"bounces": True}, {"bogus": 1},
    {"imp_per_kwh": 0}, {"imp_per_kwh": 100_001}, {"imp_per_kwh": None}])
def test_a_wrong_setting(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PulseTrain(**wrong)
    train = PulseTrain()
    before = dict(train.settings)
    with pytest.raises(ValueError, match="."):
        train.set(break_ms=3, bogus=1)
    assert train.settings == before


def test_the_file_is_appended_to(tmp_path):
    path = tmp_path / "pulses.bin"
    for _ in range(2):
        output = PulseOutput(path, PulseTrain(1000, glitches=2))
        output.set_load(1000)
        output.tick()
        output.tick()
        output.close()
    data = path.read_bytes()
    assert len(data) == 2 * 4 * 4
    assert [data[at] & 1 for at in range(0, len(data), 4)] == [0, 1] * 4
