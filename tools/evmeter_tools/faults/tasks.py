"""Campaign `memory-tasks`: each call that a task makes fails once.

The device's own tasks, under its own supervisor, on the charger of world.py, in three lives: a
session's (meter, pilot, session, house, books, orders, and the supervisor's own loop), one with a
network (tasks_network.py), and a pulse meter's (tasks_pulses.py). Each life is lived again once
for each point of it (injector.py), and there the call raises MemoryError, RuntimeError or, where
it leaves the firmware, OSError in place of being made; in some lives the way out of that fails
too.

Metering goes on, the sum of energy holds, no record is lost or doubled, no number reused, the same
sessions are there with the same billing, and a task that died is in the audit log (truth.py).

A wrong design: a supervisor that starts no task again, in each of the three.
"""

from unittest.mock import patch

from evmeter.system.supervisor import Supervisor
from evmeter_tools.faults.injector import Injector, Loaded, plan
from evmeter_tools.faults.result import Result
from evmeter_tools.faults.tasks_network import TASKS, Connected
from evmeter_tools.faults.tasks_pulses import PulseStation
from evmeter_tools.faults.tasks_session import Charger


class _Leaving(Supervisor):
    """Wrong: a task that died stays dead."""

    async def _keep(self, name, function):
        try:
            await function()
        except Exception as error:
            self._tell(name, error)


# what is lived, and the tasks whose calls fail in it; none: all
LIVES = ((Charger, ()), (Connected, TASKS), (PulseStation, ()))


class _Stage:
    """One of the lives, and what fails in it."""

    def __init__(self, kind, tasks):
        self._kind, self._tasks = kind, tasks
        self._loaded = Loaded()
        self._live(Injector(tasks=tasks))  # Python loads modules of its own in the first one
        learning = Injector(learn=True, tasks=tasks)
        life = self._live(learning)
        self.wrong = life.judge(None)
        self._least = life.facts()
        self.points = len(learning.points)
        self.plan = plan(learning.points)

    def _live(self, injector):
        self._loaded.restore()
        return self._kind(injector).live()

    def once(self, one, result):
        """Live with one failure."""
        where, *how = one
        injector = Injector(*how, tasks=self._tasks)
        life = self._live(injector)
        result.trials += 1
        wrong = life.judge(self._least)
        result.counts["tasks that died"] += bool(life.deaths)
        result.counts["calls that failed"] += injector.hit.count(";")
        if life.bites:
            result.counts["resets by the watchdog"] += 1
            wrong.insert(0, "the watchdog had to end it: %s" % life.bites)
        if not injector.hit.startswith(where):
            wrong.insert(0, "it was to be: %s" % where)
        if wrong:
            result.wrong("%s%s: %s" % (injector.hit, injector.error.__name__,
                                       "; ".join(wrong[:3])))

    def control(self, trials):
        """Whether a supervisor that starts no task again is noticed."""
        tried = Result("control")
        with patch.object(self._kind, "supervisor", _Leaving):
            for one in self.plan[:: max(1, len(self.plan) // trials)]:
                self.once(one, tried)
                if tried.violations:
                    return True
        return False


def run(trials=0, progress=None, control_trials=40):
    """Live `trials` lives, evenly spread over all there are; 0: all of them."""
    result = Result("memory-tasks")
    stages = [_Stage(*stage) for stage in LIVES]
    lives = []
    for stage in stages:
        for text in stage.wrong:
            result.wrong("without a fault: %s" % text)
        result.counts["points"] += stage.points
        lives += [(stage, one) for one in stage.plan]
    result.counts["lives there are"] = len(lives)
    step = max(1, len(lives) // trials) if trials else 1
    chosen = lives[step // 2 :: step]
    for number, (stage, one) in enumerate(chosen):
        stage.once(one, result)
        if progress:
            progress(number + 1, len(chosen))
    for (kind, _), stage in zip(LIVES, stages, strict=True):
        result.controls["a supervisor that starts no task again: %s" % kind.__name__] = (
            stage.control(control_trials))
    return result
