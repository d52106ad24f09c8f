"""A sample of the campaign memory-tasks, and its lives."""

from evmeter_tools.faults import tasks


def test_each_call_of_a_task_may_fail():
    result = tasks.run(40)
    assert result.texts == []
    assert result.trials >= 40 and result.good and len(result.controls) == 1
    assert result.counts["points"] > 500 and result.counts["tasks that died"] > 20


def test_a_life_is_the_same_each_time():
    first, again = (tasks.Injector(learn=True) for _ in range(2))
    worlds = [tasks.live(one) for one in (first, again)]
    assert first.points == again.points
    assert worlds[0].truth.counts == worlds[1].truth.counts
    assert {place[0] for place in first.points} == {
        "meter", "pilot", "session", "house", "books", "commands", "main"}
