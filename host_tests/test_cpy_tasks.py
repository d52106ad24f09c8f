"""A sample of the campaign memory-tasks, and its lives."""

import pytest

from evmeter_tools.faults import tasks
from evmeter_tools.faults.injector import Injector

SESSION = {"meter", "pilot", "session", "house", "books", "commands", "main"}


def test_each_call_of_a_task_may_fail():
    result = tasks.run(60)
    assert result.texts == []
    assert result.trials >= 60 and result.good and len(result.controls) == len(tasks.LIVES) == 3
    assert result.counts["points"] > 1000 and result.counts["tasks that died"] > 30


@pytest.mark.parametrize(("kind", "names", "found"), [
    (tasks.LIVES[0][0], (), SESSION),
    (tasks.LIVES[1][0], tasks.TASKS, set(tasks.TASKS)),
    (tasks.LIVES[2][0], (), {"meter", "pulses"}),
], ids=("session", "network", "pulses"))
def test_a_life_is_the_same_each_time(kind, names, found):
    kind(Injector(learn=True, tasks=names)).live()  # a process's first one imports modules
    first, again = (Injector(learn=True, tasks=names) for _ in range(2))
    lives = [kind(one).live() for one in (first, again)]
    assert first.points == again.points
    assert lives[0].facts() == lives[1].facts()
    assert {place[0] for place in first.points} == found
