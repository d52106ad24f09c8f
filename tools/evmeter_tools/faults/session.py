"""Campaigns `session-sequences` and `session-years`: the device's life against what was true.

session-sequences: a state machine of hypothesis plays sequences of what can happen to a charger.
session-years: ten years of sessions, each fault with 1 % of them.

A violation is whatever truth.py finds wrong, or an exception that no rule provides for.
"""

import logging
import random
import traceback
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal
from evmeter.ledger.ledger import Ledger, account
from evmeter.metering.gate import Gate
from evmeter.session import orders, recovery
from evmeter.session.keeper import SessionKeeper
from evmeter.session.machine import SessionMachine
from evmeter.session.split import Split
from evmeter_tools.faults import world as charger
from evmeter_tools.faults.result import Result
from evmeter_tools.faults.truth import Truth
from evmeter_tools.faults.world import P_MAX_W, STEP_MWH, Parts, World

_MOST_HELD = 200  # steps of 50 ms: an edge without a meter is not written for long
_STEPS = 60
_WATTS = (0, 60, 1400, 7200, P_MAX_W)
_SETTLE_MS = 60000
_MOST_SETTLES = 6
_USER_MS = 300000
_FILLER_BYTES = 1500
_CONTROL_TRIALS = 150
_FAULT_RATE = 0.01 / 2  # of each fault in a part of a session; there are 2 parts on the average


class Violation(Exception):
    """A rule was broken; the text says which."""


class Sequence(RuleBasedStateMachine):
    """Everything that can happen to a charger, in any order. `parts`, `result` come by class."""

    parts = None
    result = None
    pace = {}  # noqa: RUF012 (of World)

    def __init__(self):
        super().__init__()
        self.world = World(self.parts, **self.pace)
        self.truth = Truth(self.world)
        self._users = 0
        self._user_until_ms = None
        self._backend = True
        self.result.trials += 1

    # -- how it goes on after each step --

    def _go_on(self, ms=0):
        """Time passes; after a power cut the device comes back by itself."""
        alive = self.world.pass_ms(ms)
        self._check()
        if not alive:
            self._off(5000, "power-on", "I", 0)

    def _check(self):
        truth, device = self.truth, self.world.device
        truth.look()
        if self._user_until_ms is not None:
            left_ms = self._user_until_ms - self.world.true_ms()
            if left_ms < 5000:  # he may have come too late
                truth.pending = truth.pending | {None}
                truth.owed = None
            if left_ms < -5000:
                truth.pending = {None}
        if self.world.wrong:
            raise Violation("; ".join(self.world.wrong[:3]))
        if self._backend and device:
            device.journal.confirm(device.journal.next_seq - 1)

    def _off(self, off_ms, cause, quality, power_w):
        world = self.world
        register_mwh = world.meter.register_mwh()
        self.truth.look()
        self.truth.pending = {None}
        self.truth.owed = None
        world.lose(cause)
        world.meter.load(power_w)
        world.off_ms = off_ms
        world.pass_ms(off_ms)
        self.truth.off(world.meter.register_mwh() - register_mwh)
        world.meter.load(0)
        world.boot(quality)
        self._go_on(50)

    # -- rules --

    @initialize(start_s=st.sampled_from((0, 16 * 3600 - 60, 8 * 3600)),
                quality=st.sampled_from("IISU"), tariff=st.booleans())
    def begin(self, start_s, quality, tariff):
        """A device is put into service, at this time of the day."""
        if not tariff:
            self.world.tariff = None
        self.world.pass_ms(start_s * 1000)
        self.world.boot(quality)
        self._go_on(3000)

    @rule(ms=st.sampled_from((50, 250, 900, 3000, 12000, 70000, 200000, 1000000)))
    def wait(self, ms):
        """Nothing happens."""
        self._go_on(ms)

    @rule(pilot=st.sampled_from((charger.B, charger.B1, charger.C)),
          ms=st.sampled_from((100, 250, 400, 1000, 20000)))
    def plug(self, pilot, ms):
        """A car comes, or stops asking."""
        self.world.plug(pilot)
        self._go_on(ms)

    @rule(pilot=st.sampled_from((charger.C, charger.C, charger.C1, charger.D)),
          power_w=st.sampled_from(_WATTS), ms=st.sampled_from((100, 400, 5000, 70000, 400000)))
    def charge(self, pilot, power_w, ms):
        """The car asks, and draws or not."""
        self.world.plug(pilot, power_w)
        self._go_on(ms)

    @rule(power_w=st.sampled_from((0, 0, 0, 3000)), ms=st.sampled_from((100, 400, 900, 5000)))
    def unplug(self, power_w, ms):
        """The car is gone; something may flow all the same."""
        self.world.plug(charger.A, power_w)
        self._go_on(ms)

    @rule(pilot=st.sampled_from((charger.E, charger.F)),
          ms=st.sampled_from((400, 2000, 4000, 30000, 30000, 950000)))
    def fault(self, pilot, ms):
        """The pilot fails, short or long."""
        self.world.plug(pilot)
        self._go_on(ms)

    @rule(operations=st.integers(0, 12), ms=st.sampled_from((500, 3000, 70000)),
          pilot=st.sampled_from((None, charger.A, charger.C)), off_ms=st.sampled_from((
              500, 20000, 100000, 400000)),
          power_w=st.sampled_from(_WATTS), quality=st.sampled_from("IIUS"))
    def cut(self, operations, ms, pilot, off_ms, power_w, quality):
        """The power goes at a store operation to come, or when the time is up."""
        self.world.board.power.left = operations
        if pilot:
            self.world.plug(pilot)
        self.world.pass_ms(ms)
        self._off(off_ms, "power-on", quality, power_w)

    @rule(cause=st.sampled_from(("watchdog", "software")), off_ms=st.sampled_from((300, 3000)),
          power_w=st.sampled_from(_WATTS), quality=st.sampled_from("IU"))
    def reset(self, cause, off_ms, power_w, quality):
        """A reset without a power loss."""
        self._off(off_ms, cause, quality, power_w)
        self.world.meter.load(power_w)

    @rule(quality=st.sampled_from("ISSR"), error_ms=st.sampled_from(
        (0, 0, 0, 1500, 90000, -90000, 7200000, -7200000)))
    def clock(self, quality, error_ms):
        """The clock is set, right or wrong; the device takes it once an edge is written, and only
        from then on is it dated by that."""
        for _ in range(_MOST_HELD):
            if not self.world.device or not self.world.device.clock._holds:
                break
            self._go_on(50)
        self.world.set_clock(quality, error_ms)
        self._go_on(50)

    @rule(to_s=st.sampled_from((-3, 2)), ms=st.sampled_from((1000, 10000)))
    def boundary(self, to_s, ms):
        """Time passes up to the next change of the tariff."""
        left_ms = (charger.START_UNIX_MS + 16 * 3600000 - self.world.true_ms()) % 28800000
        if left_ms < 3600000:
            self._go_on(max(0, left_ms + to_s * 1000))
        self._go_on(ms)

    @rule(fault=st.sampled_from(("", "", "silent", "refused")),
          ms=st.sampled_from((50, 2000, 16000)))
    def meter(self, fault, ms):
        """The meter fails, or is well again."""
        self.world.meter.fault = fault
        self.world.busy()
        self._go_on(ms)

    @rule(other=st.booleans(), register_mwh=st.sampled_from((0, 5000, 700_000_000)),
          ms=st.sampled_from((50, 5000, 40000)))
    def exchange(self, other, register_mwh, ms):
        """The register goes on from elsewhere, or another meter takes the place."""
        meter = self.world.meter
        if other:  # nobody does it in less time
            fault, meter.fault = meter.fault, "silent"
            self._go_on(20000)
            meter.fault = fault
            meter.begin_epoch(register_mwh + len(meter.epochs) % 40 * 10_000_000_000,
                              "2200%04d" % len(meter.epochs))
        elif meter.told_mwh > register_mwh + 1_000_000:  # less could not be noticed
            meter.begin_epoch(register_mwh)
        self._go_on(ms)

    @rule(name=st.sampled_from(("user", "user", "target", "target", "stop")),
          value=st.integers(1, 3), ms=st.sampled_from((0, 100, 500)))
    def order(self, name, value, ms):
        """Someone says who charges, up to how much, or that it is to end."""
        if not self.world.device:
            return
        self._users += 1
        user = "CARD%06d" % self._users
        given = {"user": {"IL": "HEARSAY", "IT": "ISO14443", "ID": user},
                 "target": {"target_mwh": value * 500_000},
                 "stop": {"by": "remote"}}[name]

        def done(error):
            self.truth.look()
            if name != "user" or error or user in self.truth.told:
                return
            # the begin record of the one before may be in the making; then this one follows it
            signing = self.world.device.ledger._lock.taken
            before = self.truth.pending if signing else set()
            self.truth.pending = before | {user}
            self.truth.owed = user if signing else None
            self._user_until_ms = self.world.true_ms() + _USER_MS

        self.world.order(name, given, done)
        self._go_on(ms)

    @rule(left_percent=st.sampled_from((24, 9)))
    def fill(self, left_percent):
        """The backend stays away, and the journal fills up."""
        self._backend = False
        device = self.world.device
        try:
            while device.journal.free_percent() > left_percent:
                message = {"ev": "filler", "seq": device.journal.next_seq, "sid": "",
                           "pad": "x" * _FILLER_BYTES, "ts": self.world.true_ms() // 1000,
                           "tq": "U"}
                device.journal.append(frames.EVT, charger.as_json(message))
        except charger.PowerCut:
            self._off(5000, "power-on", "I", 0)
        self._go_on(50)

    @rule(there=st.booleans(), ms=st.sampled_from((50, 20000)))
    def backend(self, there, ms):
        """The backend acknowledges, or is not there."""
        self._backend = there
        self._go_on(ms)

    # -- the end --

    def teardown(self):
        """The faults end, the car leaves, and everything must come right."""
        world = self.world
        if world.device is None or world.wrong:
            return
        self._backend = True
        world.meter.fault = ""
        world.board.power.left = None
        world.plug(charger.A)
        for _ in range(_MOST_SETTLES):
            self._go_on(_SETTLE_MS)
        self._off(1000, "software", "I", 0)
        self._go_on(_SETTLE_MS)
        self.truth.settled()
        self.result.counts.update(self.truth.counts)
        if world.wrong:
            raise Violation("; ".join(world.wrong[:3]))


class _Doubling(SessionKeeper):
    def out_mwh(self, register_mwh):
        out_mwh = super().out_mwh(register_mwh)
        return out_mwh + STEP_MWH if out_mwh else 0


class _Trusting(SessionKeeper):
    def _spoil(self, cause, jump_mwh):
        return None


class _Credulous(Gate):
    def _against(self, old_mwh, old_ms, mwh, now_ms):
        return ""


class _NoHead(Journal):
    def _save_head(self):
        return None


class _SamePage(Ledger):
    async def _append(self, kind, payload, **head):
        head.pop("page", None)
        return await super()._append(kind, payload, **head)


def _no_mark(kind, payload):
    head = account(kind, payload)
    head.pop("mark_mwh", None)
    return head


def _no_gap(keeper, stored=recovery.stored_session):
    session = stored(keeper)
    if session:
        session.gap_mwh = 0
    return session


def _any_time(session, state, register_mwh, same_meter, reset_cause, off_ms,
              refusal=recovery.refusal):
    return refusal(session, state, register_mwh, same_meter, "software", off_ms)


# Wrong designs: name -> (parts, patches: object, attribute, what takes its place)
DESIGNS = {
    "keeper: a step too much outside of sessions": ({"keeper": _Doubling}, ()),
    "keeper: another register spoils nothing": ({"keeper": _Trusting}, ()),
    "recovery: resumes after any time": ({}, ((recovery, "refusal", _any_time),)),
    "recovery: earlier gaps are forgotten": ({}, ((recovery, "stored_session", _no_gap),)),
    "machine: knows of no open session after a boot":
        ({}, ((SessionMachine, "resume", lambda self, charged: None),)),
    "machine: every window without a car closes":
        ({}, ((SessionMachine, "step", lambda self, state, pwm, since_ms, mono_ms, happened:
               happened.append(("open" if state in (1, 2) else "close", mono_ms))),)),
    "split: gap energy has a price":
        ({}, ((Split, "skip", lambda self, energy_mwh, why="": None),)),
    "orders: who charges is not applied":
        ({}, ((orders, "apply", lambda session, name, fields: None),)),
    "gate: believes every register": ({"gate": _Credulous}, ()),
    "journal: the second store is told nothing": ({"journal": _NoHead}, ()),
    "ledger: a page is given out again": ({"ledger": _SamePage}, ()),
    "ledger: a frame taken over accounts for nothing": ({"account": _no_mark}, ()),
}


def caught(name, trials=_CONTROL_TRIALS):
    """What the campaign says of a wrong design, or "" where it does not notice."""
    parts, patches = DESIGNS[name]
    with ExitStack() as stack:
        for owner, attribute, wrong in patches:
            stack.enter_context(patch.object(owner, attribute, wrong))
        return _play(Result("control"), trials, Parts(**parts), shrink=False)


@contextmanager
def _silence():
    """The firmware's log tells of each clock that is set."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _play(result, trials, parts=None, steps=_STEPS, shrink=True, progress=None):
    """Play so many sequences; returns what was violated, in words, or ""."""

    class Played(Sequence):
        """With this campaign's parts."""

        def __init__(self):
            super().__init__()
            if progress:
                progress(result.trials, trials)

    Played.parts = parts
    Played.result = result
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    how = settings(max_examples=trials, stateful_step_count=steps, deadline=None, database=None,
                   derandomize=True, phases=phases, verbosity=Verbosity.normal,
                   suppress_health_check=list(HealthCheck), print_blob=False,
                   report_multiple_bugs=False)
    try:
        with _silence():
            run_state_machine_as_test(Played, settings=how)
    except Exception as error:  # whatever gets out is what is looked for
        return "\n".join([*traceback.format_exception_only(error),
                          *getattr(error, "__notes__", ())]).strip()
    return ""


def sequences(trials=2500, progress=None, control_trials=_CONTROL_TRIALS):
    """Play `trials` sequences, then look whether wrong designs are noticed."""
    result = Result("session-sequences")
    text = _play(result, trials, progress=progress)
    if text:
        result.wrong(text)
    for name in DESIGNS if control_trials else ():
        result.controls[name] = bool(caught(name, control_trials))
    return result


class _Years(Sequence):
    """Many sessions in a row. The rules are played by chance, without hypothesis."""

    pace = {"poll_ms": 60000, "coarse_ms": 60000}  # noqa: RUF012

    def live(self, sessions, chance, progress):
        """So many cars, one after the other; each fault comes with 1 % of them."""
        self.begin(0, "S", True)
        clean = True  # nothing of an earlier fault is left
        for number in range(sessions):
            before = self.truth.counts["sessions"], len(self.truth.ended)
            faulty = self._car(chance)
            if clean and not faulty:
                after = self.truth.counts["sessions"], len(self.truth.ended)
                if after != (before[0] + 1, before[1] + 1):
                    raise Violation("car %d: sessions begun and ended %s, then %s"
                                    % (number, before, after))
            clean = not faulty
            if faulty:
                self._heal()
            self.world.meter.forget()
            self.result.trials += 1
            if progress:
                progress(number + 1, sessions)
        self.teardown()

    def _car(self, chance):
        """One session; returns whether anything was wrong."""
        faulty = False
        self.plug(charger.B, 1000 * chance.randrange(1, 5))
        for _ in range(chance.randrange(1, 4)):
            for fault in _FAULTS:
                if chance.random() < _FAULT_RATE:
                    self.result.counts["fault: " + fault] += 1
                    faulty = True
                    getattr(self, "_do_" + fault)(chance)
            self.charge(charger.C, chance.choice(_WATTS), 1000 * chance.randrange(30, 400))
            if chance.random() < 0.3:
                self.plug(charger.B, 1000 * chance.randrange(1, 200))
        self.unplug(0, 5000)
        self.wait(1000 * chance.randrange(10, 3600))
        return faulty

    def _heal(self):
        self._backend = True
        self.meter("", 1000)
        self.clock("S", 0)
        self.unplug(0, 700000)

    def _do_cut(self, chance):
        self.cut(chance.randrange(13), 70000, None, chance.choice((500, 20000, 100000, 400000)),
                 chance.choice(_WATTS), chance.choice("IIUS"))

    def _do_reset(self, chance):
        self.reset("watchdog", 1000, chance.choice(_WATTS), chance.choice("IU"))

    def _do_silent_meter(self, chance):
        self.meter("silent", chance.choice((2000, 200000)))

    def _do_refused_meter(self, chance):
        self.meter("refused", chance.choice((2000, 200000)))

    def _do_exchange(self, chance):
        self.exchange(chance.random() < 0.5, 0, 40000)

    def _do_pilot(self, chance):
        self.fault(chance.choice((charger.E, charger.F)), chance.choice((2000, 30000, 950000)))

    def _do_clock(self, chance):
        self.clock("S", chance.choice((90000, -90000, 7200000, -7200000)))

    def _do_full_journal(self, chance):
        self.fill(chance.choice((24, 9)))

    def _do_no_backend(self, chance):
        self.backend(False, 20000)

    def _do_order(self, chance):
        self.order("user", 1, 500)


_FAULTS = [name[4:] for name in dir(_Years) if name.startswith("_do_")]


def years(trials=36500, seed=7, progress=None, control_trials=300):
    """`trials` sessions in a row, 10 a day."""
    result = Result("session-years")
    _live(result, trials, seed, None, progress)
    if control_trials:
        tried = Result("control")
        _live(tried, control_trials, seed, Parts(keeper=_Trusting), None)
        result.controls["another register spoils nothing"] = bool(tried.violations)
    return result


def _live(result, trials, seed, parts, progress):

    class Lived(_Years):
        """With this campaign's parts."""

    Lived.parts = parts
    Lived.result = result
    life = Lived()
    result.trials = 0
    try:
        with _silence():
            life.live(trials, random.Random(seed), progress)
    except Exception:  # whatever gets out is what is looked for
        result.wrong(traceback.format_exc())
