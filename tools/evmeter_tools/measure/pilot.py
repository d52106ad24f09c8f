"""The pilot from samples to sessions: 100,000 noisy windows of random plug sequences.

The real ControlPilot, PilotFilter and SessionMachine read the bench's waveform in virtual time, a
window begun 50 ms after the end of the one before, as the firmware does it. What is believed is
held against what was emulated.
"""

import random
import statistics

from drivers.control_pilot import ControlPilot
from evmeter.session import pilot as states
from evmeter.session.machine import CLOSE, OPEN, SessionMachine
from evmeter.session.pilot import PilotFilter
from evmeter_tools.bench.waveform import FRONT_ENDS, Waveform
from evmeter_tools.faults.result import Result

WINDOWS = 100_000
_CONTROL_WINDOWS = 12_000
_LIFE = 1600  # windows with one front end
_WINDOW_MS = 10
_PAUSE_MS = 50
_LATE_MS = 20  # by which other tasks delay a window
_MATCH_MS = 1500
_BELIEVED_MS = 600  # so long may a state be believed after its end
_DUTIES = (5, 8, 10, 16, 26.7, 53.3, 85, 96)
# errors of a life's front end: of its gain and the ADC's, offset in mV
_ERRORS = {"far": (0.055, 0.005, 5), "near": (0.004, 0.002, 2), "usual": (0.01, 0.005, 5)}
# where the levels of a state may lie, and where they still count as that state
_RANGES_MV = {"A": (11400, 12600), "B": (8360, 9560), "C": (5480, 6490), "D": (2620, 3250)}
_SAGGED_MV = {"A": (10250, 10750), "B": (7250, 7700), "C": (4150, 4600)}
_REACH_MS = 100
_NOISES_MV = (2, 4, 12, 20)
_WARM_MS = 18_000  # state A, by which the gain is corrected


class Designs:
    """The parts under test; a control puts a wrong one in. `bands`: names of evmeter.session.pilot
    and other values for them; `kinds`: of lives."""

    def __init__(self, pilot=ControlPilot, filtered=PilotFilter, *,
                 kinds=("far", "near", "near", "usual"), **bands):
        self.kinds = kinds
        self.pilot = pilot
        self.filtered = filtered
        self.bands = bands


class _Adc:
    """The waveform's windows as machine.ADC gives them."""

    def __init__(self, waveform):
        self._waveform = waveform
        self._left = iter(())

    def window(self, at_ms):
        """The reads from now on are of the window that begins at `at_ms`."""
        self._left = iter(self._waveform.window(at_ms))

    def read_uv(self):
        """Microvolts at the pin."""
        return next(self._left) * 1000


def _custom(rng):
    """A front end of one's own: (as the driver takes it, as the waveform takes it). Its zero keeps
    a pin that hangs in the air below state D."""
    uv_per_v = rng.randrange(60, 110) * 1000
    zero_uv = rng.randrange(12 * uv_per_v + 100_000, 1_600_000)
    return {"zero_uv": zero_uv, "uv_per_v": uv_per_v}, (zero_uv / 1000, uv_per_v / 1000)


class _Car:
    """What is plugged, at random: rows (duration ms, settings of the waveform). Durations keep
    away from the limits by which a session opens and closes, 300 and 500 ms."""

    def __init__(self, rng, near):
        self._rng = rng
        self._near = near  # the gain is known well enough for levels inside the dead bands
        self._ms = rng.uniform
        self._fast = rng.random() < 0.5

    def _pick(self, *choices):
        return self._rng.choice(choices)

    def _level(self, state, *ramps_ms):
        """Settings for a state: its level where SAE J1772 lets it lie at the EVSE."""
        found = {"state": state, "cp": "ok",
                 "ramp_ms": self._pick(*ramps_ms or (0, 0, 0, 2, 20, 80))}
        if state in _RANGES_MV and self._rng.random() < 0.7:
            least_mv, most_mv = _RANGES_MV[state]
            found["level_mv"] = self._pick(least_mv, most_mv, self._rng.randint(least_mv, most_mv))
        return found

    def _sag(self, state):
        """A level that sinks into the dead band under its state, and comes back."""
        yield self._ms(700, 2000), {
            "level_mv": self._rng.randrange(*_SAGGED_MV[state]), "ramp_ms": 500}
        yield self._ms(600, 1500), {"level_mv": None, "ramp_ms": 0}

    def idle(self):
        """State A, long enough to close a session, with what is none."""
        yield self._ms(900, 4000), self._level("A")
        for _ in range(self._pick(0, 0, 1, 3)):
            kind = self._pick("touch", "touch", "short", "cut", "sag")
            if kind == "touch":  # a plug that does not stay in
                yield self._ms(20, 250), self._level(self._pick("B", "C"), 0, 2, 20)
            elif kind in ("short", "cut"):
                yield self._ms(20, 2500), {"cp": kind, "ramp_ms": 0}
            elif self._near:
                yield from self._sag("A")
            yield self._ms(200, 2500), self._level("A", 0, 2, 20)
        yield self._ms(900, 1500), self._level("A")

    def plugged(self):
        """One session, from the plug to before its end."""
        settings = {"duty_percent": self._pick(100, *_DUTIES), "slew_us": self._pick(0, 2, 10),
                    "low_mv": self._pick(-12000, -12000, -12600, -11300, -10700),
                    "diode": self._rng.random() < 0.95}
        first = self._pick("B", "B", "B", "C", "D", "BC", "BCB")
        for state in first:
            # a car that is ready at once
            ms = self._ms(30, 250) if len(first) > 1 and self._fast else self._ms(600, 2500)
            yield ms, {**self._level(state), **settings}
        yield self._ms(600, 1500), {}
        for _ in range(self._rng.randrange(7)):
            yield from self._inside(
                self._pick("offer", "request", "wish", "slow", "E", "F", "sag", "flap"))

    def _inside(self, kind):
        if kind == "offer":
            yield self._ms(200, 2000), {"duty_percent": self._pick(100, *_DUTIES)}
        elif kind == "request":
            yield self._ms(300, 2000), self._level(self._pick("B", "C", "C", "D"))
        elif kind == "slow":
            yield self._ms(600, 1500), self._level("B")
            yield self._ms(600, 1500), self._level("D", 200, 300)
            yield self._ms(600, 1500), self._level("B", 200, 300)
        elif kind == "wish":  # unplugged, and back before it counts
            yield self._ms(20, 400), self._level("A", 0, 2, 20)
            yield self._ms(600, 2000), self._level(self._pick("B", "C"), 0, 2, 20)
        elif kind == "E":
            yield self._ms(30, 4500), {"cp": self._pick("short", "cut"), "ramp_ms": 0}
            yield self._ms(600, 2000), {"cp": "ok"}
        elif kind == "F":
            yield self._ms(60, 2000), self._level("F")
            yield self._ms(600, 2000), self._level("B")
        elif kind == "flap":
            for _ in range(self._pick(2, 4)):
                yield self._ms(30, 250), self._level("B")
                yield self._ms(30, 250), self._level("C")
            yield self._ms(600, 1500), self._level("C")
        elif self._near:
            state = self._pick("B", "C")
            yield self._ms(400, 1000), self._level(state)
            yield from self._sag(state)


class _Truth:
    """What was emulated: edges of the state, and the sessions that they make."""

    def __init__(self):
        self.edges = [(0.0, "A")]
        self.sessions = []  # [from ms, to ms or None]

    def set(self, at_ms, state):
        """The state from `at_ms` on."""
        if state != self.edges[-1][1]:
            self.edges.append((at_ms, state))

    def near(self, at_ms):
        """States since shortly before `at_ms`."""
        found = set()
        for edge_ms, state in reversed(self.edges):
            found.add(state)
            if edge_ms < at_ms - _BELIEVED_MS:
                break
        return found


class _Life:
    """One device with one front end."""

    def __init__(self, found, designs, seed):
        self.found = found
        self._rng = rng = random.Random(seed)
        name = rng.choice([*FRONT_ENDS, None])
        ours, theirs = _custom(rng) if name is None else (name, name)
        # Until state A has corrected it, the gain of a life that is far off misleads; of one that
        # is near, levels inside the dead bands still tell their state.
        kind = rng.choice(designs.kinds)
        error, adc_error, offset_mv = _ERRORS[kind]
        gain = 1 + rng.choice((-1, 1)) * rng.uniform(0.7, 1) * error
        if kind == "far" and name == "fe2":
            gain = min(gain, 2 - gain)  # a level at the ADC's end corrects nothing
        self._near = kind == "near"
        self._warm_ms = _WARM_MS if kind == "far" else 1000
        self._waveform = Waveform(
            theirs, rng.randrange(1 << 30),
            noise_mv=rng.choice(_NOISES_MV[: 3 if self._near else 4]),
            spikes=rng.choice((0, 0.5, 2)), spike_mv=rng.choice((300, 800)),
            offset_mv=rng.uniform(-offset_mv, offset_mv), gain=gain,
            adc_gain=1 + rng.uniform(-adc_error, adc_error),
            top_mv=3300 if kind == "far" else rng.choice((3100, 3300)))
        self._adc = _Adc(self._waveform)
        self._pilot = designs.pilot(self._adc, ours)
        self._filter = designs.filtered()
        self._machine = SessionMachine(120_000)
        self._truth = _Truth()
        self._now_ms = 0.0
        self._due_ms = 0.0  # of the next change
        self.opened = []
        self.closed = []
        self._wrong_state = None
        self.windows = 0
        self.text = "front end %s, seed %d" % (name or ours, seed)

    def _state(self):
        settings = self._waveform.settings
        return "E" if settings["cp"] != "ok" else settings["state"]

    def _step(self):
        """One window, from now on."""
        now_ms, truth = self._now_ms, self._truth
        self._adc.window(now_ms)
        self._pilot.sample()
        end_ms = now_ms + _WINDOW_MS
        self.windows += 1
        pilot, filtered = self._pilot, self._filter
        self.found.unsteady += pilot.high_mv is None
        mono_ms = int(end_ms)
        filtered.window(pilot.high_mv, pilot.low_mv, pilot.pwm, mono_ms)
        if filtered.state is not None:
            name = states.NAMES[filtered.state]
            if name not in truth.near(end_ms):
                if name != self._wrong_state:
                    self.found.wrong("state", "%s: %s believed at %d ms, true %s" % (
                        self.text, name, end_ms, truth.edges[-4:]))
                self._wrong_state = name
            else:
                self._wrong_state = None
        happened = []
        self._machine.step(filtered.state, filtered.pwm, filtered.since_ms, filtered.seen_ms,
                           happened)
        for what, at_ms in happened:
            if what == OPEN:
                self.opened.append(at_ms)
            elif what == CLOSE:
                self.closed.append(at_ms)
        self._now_ms = end_ms + _PAUSE_MS + self._rng.uniform(0, _LATE_MS)

    def _play(self, rows):
        """Let the rows come true, one after the other; returns the time of the first one."""
        begun_ms = self._due_ms
        for ms, settings in rows:
            self._waveform.set(self._due_ms, **settings)
            self._truth.set(self._due_ms, self._state())
            self._due_ms += ms
            # a window into which the next change falls is read when that is known
            while self._now_ms + _WINDOW_MS < self._due_ms:
                self._step()
        return begun_ms

    def run(self, windows):
        """So many windows; then the device is judged."""
        car = _Car(self._rng, self._near)
        self._play([(self._warm_ms, {})])
        while self.windows < windows:
            self._play(car.idle())
            begin_ms = self._play(car.plugged())
            self._truth.sessions.append((begin_ms, self._due_ms))
        self._play([(1500, {"state": "A", "ramp_ms": 0})])
        self._judge()

    def _judge(self):
        found, truth = self.found, self._truth.sessions
        opened, closed = list(self.opened), list(self.closed)
        for begin_ms, end_ms in truth:
            for edge_ms, told, errors in ((begin_ms, opened, found.starts),
                                          (end_ms, closed, found.stops)):
                near = [at_ms for at_ms in told if abs(at_ms - edge_ms) < _MATCH_MS]
                if not near:
                    found.wrong("missed", "%s: session %d to %d ms missed; opened %s, closed %s"
                                % (self.text, begin_ms, end_ms, opened[:2], closed[:2]))
                    continue
                told.remove(near[0])
                errors.append(near[0] - edge_ms)
        for at_ms in opened:
            found.wrong("invented", "%s: session invented at %d ms" % (self.text, at_ms))
        for at_ms in closed:
            found.wrong("invented", "%s: end invented at %d ms" % (self.text, at_ms))
        found.sessions += len(truth)
        found.windows += self.windows


def _p99_ms(errors):
    return statistics.quantiles([abs(error) for error in errors], n=100)[98]


class Found:
    """What a campaign found: windows, sessions, errors of their edges in ms, what was wrong."""

    def __init__(self):
        self.windows = self.sessions = self.unsteady = 0
        self.starts = []
        self.stops = []
        self.wrongs = {"invented": 0, "missed": 0, "state": 0}
        self.texts = []

    def wrong(self, kind, text):
        """Count one, and keep the first in words."""
        self.wrongs[kind] += 1
        if len(self.texts) < 20:
            self.texts.append(text)

    def p99_ms(self):
        """Error of the start and the stop of a session, 99th percentile."""
        return _p99_ms(self.starts + self.stops)


def campaign(windows=WINDOWS, designs=None, seed=1, progress=None):
    """Play plug sequences for so many windows or a few more; the same seed, the same windows."""
    found = Found()
    designs = designs or Designs()
    kept = {name: getattr(states, name) for name in designs.bands}
    life = 0
    try:
        for name, value in designs.bands.items():
            setattr(states, name, value)
        while found.windows < windows:
            _Life(found, designs, seed * 1000 + life).run(min(_LIFE, windows - found.windows))
            life += 1
            if progress:
                progress(min(found.windows, windows), windows)
    finally:
        for name, value in kept.items():
            setattr(states, name, value)
    return found


class _OneWindow(PilotFilter):
    """Believes the first window."""

    def window(self, high_mv, low_mv, pwm, mono_ms):
        changed = super().window(high_mv, low_mv, pwm, mono_ms)
        return super().window(high_mv, low_mv, pwm, mono_ms) or changed


class _NotBack(PilotFilter):
    """Dates a change to when it is believed."""

    def window(self, high_mv, low_mv, pwm, mono_ms):
        before = self.state
        changed = super().window(high_mv, low_mv, pwm, mono_ms)
        if self.state != before:
            self.since_ms = mono_ms
        return changed


class _Extremes(ControlPilot):
    """Takes the highest and the lowest sample: one spike wins."""

    def _judge(self):
        super()._judge()
        self._low_uv = self._samples[0]
        self._high_uv = self._samples[-1]


class _NoGain(ControlPilot):
    """Believes its front end's data."""

    def _correct(self, a_mv):
        super()._correct(12000)


_MIDDLES_MV = (10500, 7450, 4400, 2220)
CONTROLS = {
    "one window is believed": Designs(filtered=_OneWindow),
    "no dead bands": Designs(_UP_MV=_MIDDLES_MV, _DOWN_MV=_MIDDLES_MV),
    "a level on its way is a level": Designs(_SAME_MV=30000),
    "highest sample in place of a quantile": Designs(pilot=_Extremes),
    "no correction of the gain": Designs(pilot=_NoGain, kinds=("far",)),
    "no date but the believed window's": Designs(filtered=_NotBack),
}


def caught(found):
    """Whether a campaign shows that something is wrong."""
    late = len(found.stops) > 1 and _p99_ms(found.stops) > _REACH_MS
    return late or any(found.wrongs.values())


def run(windows=WINDOWS, seed=1, progress=None, control_windows=_CONTROL_WINDOWS):
    """The fault campaign `session-pilot`: sessions and states invented or missed; then whether
    wrong designs are noticed."""
    found = campaign(windows, seed=seed, progress=progress)
    result = Result("session-pilot")
    result.trials = found.windows
    result.violations = sum(found.wrongs.values())
    result.texts = found.texts
    result.counts.update(
        {"sessions": found.sessions, "windows with a level that changed": found.unsteady,
         "sessions invented": found.wrongs["invented"], "sessions missed": found.wrongs["missed"],
         "states invented": found.wrongs["state"]})
    for name, designs in CONTROLS.items() if control_windows else ():
        result.controls[name] = caught(campaign(control_windows, designs, seed))
    return result


def edges():
    """edge_error_ms_p99."""
    found = campaign()
    yield ("edge_error_ms_p99", round(found.p99_ms(), 1),
           "%d starts: median %d, most %d; %d stops: median %d, most %d; %d windows, %d sessions: "
           "%d invented, %d missed" % (
               len(found.starts), statistics.median(found.starts), max(found.starts),
               len(found.stops), statistics.median(found.stops), max(found.stops),
               found.windows, found.sessions, found.wrongs["invented"], found.wrongs["missed"]))
