"""A session's life of campaign `memory-tasks`: App's own tasks on the charger of world.py, with a
supervisor that a campaign may replace."""

import gc
from contextlib import ExitStack
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
from evmeter_tools.faults.injector import Watched
from evmeter_tools.faults.session import _silence
from evmeter_tools.faults.truth import Truth
from evmeter_tools.faults.world import Device, World

_RESTART_MS = 300
_LOOK_MS = 10000
_WATCHDOG_MS = 30000
_NOTED_MS = 30000  # a crash stands in the log after that
_FRESH_MS = 15000


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
        app.supervisor = world.supervisor(clock, None, self._died, world.time.sleep_ms)
        app.conditions = Conditions(settings["alarms"], clock, app.alarms, self.poll, self.keeper,
                                    self.journal)
        app.conditions.clock_why = lambda: ""
        self.keeper.alive, self.poll.alive = app.session_alive, app.meter_alive
        for name, task in (("pilot", app._watch_pilot), ("house", app._keep_house)):
            self._spawn(name, task)
        world.time.spawn(Watched(app.supervisor.run(), world.injector, "main"))

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
        return Watched(self.app.supervisor._keep(name, function), self.world.injector, name)

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
    supervisor = Supervisor

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
        self.acknowledge()
        if not device.app.supervisor.late():
            self._fed_us = self.time.now_us
        elif self.time.now_us - self._fed_us > _WATCHDOG_MS * 1000:
            self.bites.append(", ".join(device.app.supervisor.late()))
            self.restart("watchdog")

    def acknowledge(self):
        """Everything is stored."""
        journal = self.device.journal
        journal.confirm(journal.next_seq - 1)

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

        self.time.spawn(Watched(order(), self.injector, "commands"))
        return told

    def live(self):
        """Play it, in the world's time; returns the charger."""
        gc.collect()  # coroutines of a life before this one make calls where they are collected
        gc.disable()
        try:
            with ExitStack() as stack:
                stack.enter_context(_silence())
                for module, names in self.patches():
                    for name, value in names.items():
                        stack.enter_context(patch.object(module, name, value))
                self.play()
        finally:
            gc.enable()
        return self

    def patches(self):
        """What stands in for what, in which modules, while it lives."""
        # App's own pauses pass in the world's time
        return [(running, {"asyncio": SimpleNamespace(sleep_ms=self.rest_ms)})]

    def play(self):
        """A session's life, and the next one's, with a restart in it."""
        self.boot("S")
        self.pass_ms(5000)
        self.truth.pending = {None, "CARD000001"}
        self.give("user", {"IL": "HEARSAY", "IT": "ISO14443", "ID": "CARD000001"})
        self.pass_ms(1000)
        self.plug(charger.B)
        self.pass_ms(3000)
        self.plug(charger.C, 7200)
        self.pass_ms(70000)
        self.meter.fault = "silent"
        self.pass_ms(15000)
        self.meter.fault = ""
        self.pass_ms(960000)
        self.give("target", {"target_mwh": 3_000_000})
        self.pass_ms(30000)
        self.plug(charger.B)
        self.pass_ms(20000)
        self.plug(charger.C, 3000)
        self.pass_ms(60000)
        self.restart()
        self.pass_ms(90000)
        self.plug(charger.A)
        self.pass_ms(90000)
        self.plug(charger.C, 5000)
        self.pass_ms(200000)
        self.give("stop", {"by": "remote"})
        self.pass_ms(10000)
        self.plug(charger.A)
        self.pass_ms(60000)
        self.injector.armed = False
        self.pass_ms(120000)

    def facts(self):
        """What each life has to come to."""
        return {**self.truth.counts, "ended": self.truth.ended}

    def judge(self, least):
        """What is wrong with it; `least`: the `facts` of a life without a fault."""
        truth, wrong = self.truth, self.wrong
        device, counts = self.device, truth.counts
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
        if self.deaths and not counts["log: crash"]:
            wrong.append("no crash in the log: %s" % self.deaths[0][1])
        return wrong
