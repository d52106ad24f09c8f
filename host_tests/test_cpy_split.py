"""split.py against an account of every second by the true time: random sessions."""

import random

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from evmeter.session import split as module
from evmeter.session.split import Split
from evmeter.session.tariff import Tariff

TARIFF = Tariff({"currency": "EUR", "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "windows": [
    {"name": "peak", "from": "17:00", "to": "20:00", "centiminor_per_kwh": 5000},
    {"name": "day", "from": "06:00", "to": "17:00", "centiminor_per_kwh": 4000},
    {"name": "evening", "from": "20:00", "to": "22:00", "centiminor_per_kwh": 3000},
    {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2000}]})
MOST_POWER = 3000  # mWh a second
CLOCK_S = 2  # what a clock of quality S may be wrong by
BEGINS = (1_704_085_200, 1_711_846_800, 1_729_990_800)  # a morning, and both changes of the clock

STEPS = st.lists(st.one_of(
    st.tuples(st.just("charge"), st.integers(1, 400), st.integers(0, MOST_POWER)),
    st.tuples(st.just("long"), st.integers(1, 16), st.integers(0, MOST_POWER)),
    st.tuples(st.just("silence"), st.integers(1, 9000), st.sampled_from((0, 0, MOST_POWER))),
    st.tuples(st.just("cut"), st.integers(0, 9000), st.sampled_from((0, 0, MOST_POWER))),
    st.tuples(st.just("unset"), st.integers(0, 400), st.just(0)),
    st.tuples(st.just("correct"), st.integers(-CLOCK_S, CLOCK_S), st.just(0)),
    st.tuples(st.just("set"), st.sampled_from((-7200, -120, 120, 7200)), st.just(0)),
    st.tuples(st.just("jump"), st.sampled_from((-500_000, 500_000)), st.just(0)),
), min_size=1, max_size=8)


class World:
    """The session, its journal, and the truth."""

    def __init__(self, begin_s):
        self.true_s = begin_s
        self.edge_s = self.window = 0
        self.wrong_s = 0
        self.quality = "S"
        self.boot_s = begin_s - 50
        self.mwh = 1_000_000
        self.truth = [0] * len(TARIFF)
        self.total = 0
        self.journal = []
        self.begin = (begin_s * 1000, "S", self.mwh)
        self.split = Split(TARIFF, *self.begin)

    def pass_(self, seconds, power, counts=True):
        self.mwh += power * seconds
        while seconds > 0:
            if self.true_s >= self.edge_s:
                self.edge_s = TARIFF.next_boundary_s(self.true_s)
                self.window = TARIFF.window_at(self.true_s)
            part_s = min(seconds, self.edge_s - self.true_s)
            if counts:
                self.truth[self.window] += power * part_s
                self.total += power * part_s
            self.true_s += part_s
            seconds -= part_s

    def read(self):
        now_s = self.true_s + self.wrong_s
        mono_ms = (self.true_s - self.boot_s) * 1000
        self.split.reading(now_s * 1000, self.quality, self.mwh, mono_ms)
        self.journal += [dict(fields, ev=module.EVENT) for fields in self.split.unwritten]
        self.split.unwritten.clear()

    def charge(self, seconds, power):
        for _ in range(seconds):
            self.pass_(1, power)
            self.read()

    def long(self, halves, power):
        """Half hours; readings only each second of the minute before a change and after it."""
        end_s = self.true_s + halves * 1800
        while self.true_s < end_s:
            change_s = TARIFF.next_boundary_s(self.true_s)
            away = min(end_s, change_s - 40) - self.true_s
            if away > 0:
                self.pass_(away, power)
                self.read()
            else:
                self.charge(80, power)

    def silence(self, seconds, power):
        self.pass_(seconds, power)

    def cut(self, seconds, power):
        known = ((self.true_s + self.wrong_s) * 1000, self.quality, self.mwh)
        if self.quality == "U":  # as the keeper has it: the counter went on from the floor
            known = (known[0] - 5000, "U", self.mwh)
        before = self.mwh
        self.pass_(seconds, power, False)
        self.boot_s = self.true_s
        self.split = Split(TARIFF, *self.begin)
        for message in self.journal:
            self.split.replay(message)
        self.split.known(*known)
        self.split.skip(self.mwh - before)
        self.journal.append({"ev": "resume", "gap_mwh": self.mwh - before})

    def unset(self, seconds, _):
        """A reboot without a clock for a while."""
        self.cut(0, 0)
        self.quality = "U"
        self.charge(seconds, 1000)
        self.quality = "S"

    def correct(self, wrong_s, _):
        self.wrong_s = wrong_s

    def set(self, step_s, _):
        """The clock is wrong for a while; what is wrong for a whole boot nobody can tell."""
        self.charge(1, 1000)
        self.wrong_s += step_s
        self.charge(130, MOST_POWER)
        self.wrong_s -= step_s
        self.charge(1, 1000)

    def jump(self, jump_mwh, _):
        self.mwh += jump_mwh
        self.split.skip(jump_mwh, "register not continuous")
        self.journal.append({"ev": "meter_rebase", "jump_mwh": jump_mwh})


def violation(begin_s, before_s, steps):
    """What is wrong with the split of a session, or None."""
    world = World(begin_s - before_s)
    for name, amount, power in steps:
        getattr(world, name)(amount, power)
    found = world.split.energies_mwh(world.mwh)
    times = [row[0] for row in world.split.readings]
    result = world.split.finish((world.true_s + world.wrong_s) * 1000, world.quality, world.mwh,
                                (world.true_s - world.boot_s) * 1000)
    if sum(found) != world.total:
        return "%d mWh are split, %d were drawn" % (sum(found), world.total)
    if times != sorted(times):
        return "readings are not in order"
    if result["cost"] != TARIFF.cost(found):
        return "the cost is not that of the split"
    if result["split"]:
        # each change is read at most 10 s late, by a clock that is 2 s wrong
        allowed = (10 + 1 + 2 * CLOCK_S) * MOST_POWER * (len(times) + 1)
        for ours, true in zip(found, world.truth, strict=True):
            if abs(ours - true) > allowed:
                return "billed as %s, was %s" % (found, world.truth)
    return None


SEARCH = settings(max_examples=1000, deadline=None, phases=(Phase.generate,))
SESSIONS = (st.sampled_from(BEGINS), st.integers(0, 3000), STEPS)


@settings(max_examples=1000, deadline=None)
@given(*SESSIONS)
def test_what_can_be_billed_is_true_and_nothing_is_lost(begin_s, before_s, steps):
    assert violation(begin_s, before_s, steps) is None


def test_enough_splits_can_be_billed_for_that_to_mean_something():
    def billable(session):
        world = World(session[0] - session[1])
        for name, amount, power in session[2]:
            getattr(world, name)(amount, power)
        return not world.split.why and len(world.split.readings) > 2

    assert find(st.tuples(*SESSIONS), billable, settings=SEARCH, random=random.Random(1))


# The least that shows each defect, as a search found it: begin, seconds before it, steps.
DEFECTS = {
    "a late change is not looked for": (
        lambda patch: patch.setattr(Split, "_check_late", lambda *_: False),
        (BEGINS[0], 1, [("silence", 17, 3000)])),
    "any step of the clock is taken": (
        lambda patch: patch.setattr(module, "_STEP_MS", 10 ** 9),
        (BEGINS[0], 112, [("set", 120, 0)])),
    "no change is ever late": (
        lambda patch: patch.setattr(module, "_LATE_MS", 10 ** 9),
        (BEGINS[0], 1, [("silence", 17, 3000)])),
    "the journal is not replayed": (
        lambda patch: patch.setattr(Split, "replay", lambda *_: None),
        (BEGINS[0], 0, [("jump", -500_000, 0), ("unset", 0, 0)])),
}


@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_a_defect_is_caught(name, monkeypatch):
    seed, session = DEFECTS[name]
    assert violation(*session) is None
    seed(monkeypatch)
    assert violation(*session)
