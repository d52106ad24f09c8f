"""Campaign `memory-tasks`: each call that a task makes in a session's life fails once.

The device's own tasks, under its own supervisor, on the charger of world.py: meter, pilot,
session, house, books, orders, and the supervisor's own loop. A first life tells which calls there
are: a point is a task, the place of the call and what is called. Then the same life is lived
again, once for each point at its first, middle and last turn, and there the call raises
MemoryError, RuntimeError or, where it leaves the firmware, OSError in place of being made; in some
lives the way out of that fails too.

Metering goes on, the sum of energy holds, no record is lost or doubled, no number reused, the same
sessions are there with the same billing, and a task that died is in the audit log (truth.py).

A wrong design: a supervisor that starts no task again.
"""

import gc
import sys
from types import SimpleNamespace
from unittest.mock import patch

from evmeter import app as running
from evmeter.app import App
from evmeter.ledger.journal import JournalError
from evmeter.ledger.signer import SignerError
from evmeter.monitoring.conditions import Conditions
from evmeter.system import config
from evmeter.system.supervisor import Supervisor
from evmeter_tools.faults import world as charger
from evmeter_tools.faults.result import Result
from evmeter_tools.faults.session import _silence
from evmeter_tools.faults.truth import Truth
from evmeter_tools.faults.world import Device, World
from evmeter_tools.paths import FIRMWARE

_OWN = str(FIRMWARE)
_FIRST = 8  # a frame that begins is at one of its first instructions; else it goes on
_FREE = ("__aexit__", "release")  # they take no memory, and nothing else stands in for them
_AFTER = (1, 2, 3, 5, 8, 13, 21, 34)  # calls after the first failure: the second one
_RESTART_MS = 300
_LOOK_MS = 10000
_WATCHDOG_MS = 30000
_NOTED_MS = 30000  # a crash stands in the log after that
_FRESH_MS = 15000


class Injector:
    """Counts the calls that tasks make; the `at`-th raises `error`, and so does the `after`-th
    behind it, where that is not 0. `points`: (task, place, callee, whether it leaves the firmware)
    -> the numbers of its calls, where `learn` asks for it."""

    def __init__(self, at=0, error=MemoryError, after=0, learn=False):
        self.count = 0
        self.points = {}
        self.task = ""
        self.hit = ""  # where it was
        self.armed = bool(at or learn)
        self._at, self._after = at, after
        self._error = error
        self._learn = learn

    def seen(self, frame, event, argument):
        """The profile function."""
        if event == "call":
            caller, name = frame.f_back, frame.f_code.co_name
            if (frame.f_lasti > _FIRST or name in _FREE or not caller
                    or not caller.f_code.co_filename.startswith(_OWN)):
                return
        elif event == "c_call" and frame.f_code.co_filename.startswith(_OWN):
            caller, name = frame, argument.__name__
        else:
            return
        self.count += 1
        if self._learn:
            leaves = event == "call" and not frame.f_code.co_filename.startswith(_OWN)
            place = (self.task, "%s:%d" % (caller.f_code.co_filename[len(_OWN) + 1:],
                                           caller.f_lineno), name, leaves)
            self.points.setdefault(place, []).append(self.count)
        elif self.count == self._at:
            self.hit += "%s in %s, %s:%d; " % (name, self.task, caller.f_code.co_filename[
                len(_OWN) + 1:], caller.f_lineno)
            self._at, self._after = self._at + self._after, 0
            self.armed = self._at > self.count
            raise self._error(5)


class _Watched:
    """A task whose calls are counted."""

    def __init__(self, coroutine, injector, name):
        self._coroutine = coroutine
        self._injector = injector
        self._name = name
        self.close = coroutine.close

    def send(self, value):
        injector = self._injector
        injector.task = self._name
        if injector.armed:
            sys.setprofile(injector.seen)
        try:
            return self._coroutine.send(value)
        finally:
            sys.setprofile(None)


class _Pilot:
    a_mv = 12000

    def __init__(self, world):
        self._world = world

    def sample(self):
        """As ControlPilot."""
        self.high_mv, self.low_mv, self.pwm = self._world.pilot
        self.duty_permille = None


class Life(Device):
    """One life whose tasks are those of App, under the supervisor."""

    supervisor = Supervisor

    def __init__(self, world):
        self.app = None
        self.restarts = 0
        super().__init__(world)

    def _make_app(self):
        """The App that main.py would have made, of what is there."""
        world, clock = self.world, self.clock
        settings = config.check({"id": "demo-0001", "mqtt": {"host": "x", "tls": "off"},
                                 "meter": {"profile": "eastron_sdm120", "p_max_w": 11000}})
        self.app = app = App.__new__(App)
        app.__dict__.update(
            board=world.board, config=settings, clock=clock, journal=self.journal,
            ledger=self.ledger, poll=self.poll, keeper=self.keeper, intervals=self.intervals,
            alarms=self.keeper._alarms, first_seq=self.first_seq, pilot=_Pilot(world),
            kept_a_mv=12000, boots=1, short_lives=1, safe=False, unseen=0, battery=None,
            pulses=None, crosscheck=None, pass_through=None, signer=None, trial=None,
            probation=None, operations=None, _bad_signatures=0, _notes=[], _traces={},
            uplink=SimpleNamespace(charging=False))
        app.supervisor = self.supervisor(clock, None, self._died, world.time.sleep_ms)
        app.conditions = Conditions(settings["alarms"], clock, app.alarms, self.poll, self.keeper,
                                    self.journal)
        app.conditions.clock_why = lambda: ""
        self.keeper.alive, self.poll.alive = app.session_alive, app.meter_alive
        for name, task in (("pilot", app._watch_pilot), ("house", app._keep_house)):
            self._spawn(name, task)
        world.time.spawn(_Watched(app.supervisor.run(), world.injector, "main"))

    def _died(self, name, error, trace):
        self.world.deaths.append((self.world.true_ms(), "%s: %r" % (name, error)))
        self.app.task_died(name, error, trace)

    def _keep(self, function):
        """World's own tasks, and what they are in App."""
        if self.app is None:
            self._make_app()
        names = {self.poll.run: ("meter", self.poll.run), self.keeper.run:
                 ("session", self.keeper.run), self._write_intervals: ("books",
                                                                       self.app._keep_books)}
        return self._task(*names[function])

    def _task(self, name, function):
        return _Watched(self.app.supervisor._keep(name, function), self.world.injector, name)

    def _spawn(self, name, function):
        self.world.time.spawn(self._task(name, function))

    def _on_reading(self, reading):
        self._epochs = len(self.world.meter.epochs)
        self.app.reading(reading)

    def window(self):
        """The pilot's own task looks."""


class Charger(World):
    """A World whose device is a Life; it restarts by itself where its program ends."""

    lives = Life

    def __init__(self, injector):
        self.injector = injector
        self.deaths = []
        super().__init__(poll_ms=2000, coarse_ms=5000)
        self.truth = Truth(self)
        self.bites = []  # of the watchdog: who was late
        self._fed_us = self.time.now_us

    def pass_ms(self, ms):
        """As World."""
        end_us = self.time.now_us + ms * 1000
        while self.time.now_us < end_us:
            try:
                super().pass_ms(min(_LOOK_MS, (end_us - self.time.now_us) // 1000))
            except Exception as error:  # out of a task: nobody starts it again
                self.wrong.append("not caught by the supervisor: %r" % (error,))
                self.restart()
            self._look()

    def _look(self):
        self.truth.look()
        device = self.device
        device.journal.confirm(device.journal.next_seq - 1)
        if not device.app.supervisor.late():
            self._fed_us = self.time.now_us
        elif self.time.now_us - self._fed_us > _WATCHDOG_MS * 1000:
            self.bites.append(", ".join(device.app.supervisor.late()))
            self.restart("watchdog")

    def restart(self, cause="software"):
        """The device restarts, without a power loss; what is drawn goes on."""
        register_mwh = self.meter.register_mwh()
        self.truth.look()
        self.truth.pending = self.truth.pending | {None}
        self.lose(cause)
        self.off_ms = _RESTART_MS
        World.pass_ms(self, _RESTART_MS)
        self.truth.off(self.meter.register_mwh() - register_mwh)
        self.deaths = [death for death in self.deaths  # else it had no time to be written
                       if self.true_ms() - death[0] > _NOTED_MS]
        self.boot()

    def give(self, name, given):
        """An order, as the task `commands` gives it."""
        keeper = self.device.keeper
        told = []

        async def order():
            try:
                await keeper.order(name, given)
                told.append("")
            except (ValueError, RuntimeError, MemoryError, OSError, JournalError,
                    SignerError) as error:
                told.append(repr(error))

        self.time.spawn(_Watched(order(), self.injector, "commands"))
        return told


def live(injector):
    """A session's life, and the next one's, with a restart in it; returns the Charger."""
    gc.collect()  # coroutines of a life before this one make calls where they are collected
    gc.disable()
    try:
        world = Charger(injector)
        # App's own pauses pass in the world's time
        with _silence(), patch.object(running, "asyncio", SimpleNamespace(sleep_ms=world.rest_ms)):
            _play(world)
    finally:
        gc.enable()
    return world


def _play(world):
    world.boot("S")
    world.pass_ms(5000)
    world.truth.pending = {None, "CARD000001"}
    world.give("user", {"IL": "HEARSAY", "IT": "ISO14443", "ID": "CARD000001"})
    world.pass_ms(1000)
    world.plug(charger.B)
    world.pass_ms(3000)
    world.plug(charger.C, 7200)
    world.pass_ms(70000)
    world.meter.fault = "silent"
    world.pass_ms(15000)
    world.meter.fault = ""
    world.pass_ms(960000)
    world.give("target", {"target_mwh": 3_000_000})
    world.pass_ms(30000)
    world.plug(charger.B)
    world.pass_ms(20000)
    world.plug(charger.C, 3000)
    world.pass_ms(60000)
    world.restart()
    world.pass_ms(90000)
    world.plug(charger.A)
    world.pass_ms(90000)
    world.plug(charger.C, 5000)
    world.pass_ms(200000)
    world.give("stop", {"by": "remote"})
    world.pass_ms(10000)
    world.plug(charger.A)
    world.pass_ms(60000)
    world.injector.armed = False
    world.pass_ms(120000)


def _judge(world, least):
    """What is wrong with a life; `least`: the counts of one without a fault."""
    truth, wrong = world.truth, world.wrong
    device, counts = world.device, truth.counts
    truth.settled()
    latest = device.poll.latest
    if not latest or device.clock.mono_ms() - latest.mono_ms > _FRESH_MS:
        wrong.append("the meter is read no more")
    late = device.app.supervisor.late()
    if late:
        wrong.append("no sign of life: %s" % ", ".join(late))
    for name in ("sessions", "billable"):
        if least and counts[name] != least[name]:
            wrong.append("%s: %d, not %d" % (name, counts[name], least[name]))
    if least and len(truth.ended) != len(least["ended"]):
        wrong.append("%d sessions ended" % len(truth.ended))
    if world.deaths and not counts["log: crash"]:
        wrong.append("no crash in the log: %s" % world.deaths[0][1])
    return wrong


def _plan(points):
    """[(number of the call, error, calls until the next failure)] of every life."""
    plan = []
    for index, (point, numbers) in enumerate(sorted(points.items())):
        for number in sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}):
            plan += [(number, MemoryError, 0), (number, RuntimeError, 0)]
            if point[3]:
                plan.append((number, OSError, 0))
        plan.append((numbers[0], MemoryError, _AFTER[index % len(_AFTER)]))
    return plan


class _Leaving(Supervisor):
    """Wrong: a task that died stays dead."""

    async def _keep(self, name, function):
        try:
            await function()
        except Exception as error:
            self._tell(name, error)


class _LeftAlone(Life):
    supervisor = _Leaving


def _try(one, least, result):
    injector = Injector(*one)
    world = live(injector)
    result.trials += 1
    wrong = _judge(world, least)
    result.counts["tasks that died"] += bool(world.deaths)
    result.counts["calls that failed"] += injector.hit.count(";")
    if world.bites:
        result.counts["resets by the watchdog"] += 1
        result.wrong("%sthe watchdog had to end it: %s" % (injector.hit, world.bites))
    elif wrong:
        result.wrong("%s%s: %s" % (injector.hit, one[1].__name__, "; ".join(wrong[:3])))


def run(trials=0, progress=None, control_trials=40):
    """Live `trials` lives, evenly spread over all there are; 0: all of them."""
    result = Result("memory-tasks")
    learning = Injector(learn=True)
    world = live(learning)
    for text in _judge(world, None):
        result.wrong("without a fault: %s" % text)
    least = {**world.truth.counts, "ended": world.truth.ended}
    plan = _plan(learning.points)
    result.counts["points"] = len(learning.points)
    result.counts["lives there are"] = len(plan)
    step = max(1, len(plan) // trials) if trials else 1
    chosen = plan[step // 2 :: step]
    for number, one in enumerate(chosen):
        _try(one, least, result)
        if progress:
            progress(number + 1, len(chosen))
    tried = Result("control")
    with patch.object(Charger, "lives", _LeftAlone):
        for one in plan[:: max(1, len(plan) // control_trials)]:
            _try(one, least, tried)
            if tried.violations:
                break
    result.controls["a supervisor that starts no task again"] = bool(tried.violations)
    return result
