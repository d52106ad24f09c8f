"""The rules of a charging session over the pilot state, without input or output of their own.

A session opens on B, C or D held 300 ms and closes on A held 500 ms, both dated back to the first
window that showed the change. E or F shorter than 3 s changes nothing; longer it is a fault inside
the session, and closes it only after 15 minutes.
"""

from micropython import const

from evmeter.session import pilot

_OPEN_MS = const(300)
_CLOSE_MS = const(500)
_FAULT_MS = const(3000)
_FAULT_CLOSES_MS = const(900000)
_PHASE_MS = const(300)  # a phase shorter than this is no event
_BIN_MS = const(10000)
_BINS = const(30)  # 5 minutes
_LOW_BINS = const(60)  # 10 minutes

CONNECTED = "connected"
CHARGING = "charging"
SUSPENDED_EV = "suspended_ev"
SUSPENDED_EVSE = "suspended_evse"
FAULT = "fault"
FINISHED = "finished_estimated"
OPEN = "open"
CLOSE = "close"
ABORT = "abort"


class SessionMachine:
    """`step` is called with every pilot window and returns what happened since, as a list of
    (what, monotonic ms at which it happened)."""

    def __init__(self, finished_after_ms):
        self._finished_after_ms = finished_after_ms
        self.is_open = False
        self.phase = None
        self._charged = False
        self.phase_ms = 0
        self.finished_ms = None
        self._next_phase = None
        self._next_phase_ms = 0
        self._suspended_ms = None
        self._fault_ms = None
        self._plugged_ms = None  # since when there is a car, in whatever state
        self._pwm = None
        self._pwm_ms = self._step_ms = 0
        self._bins = [0] * _BINS
        self._reset_power()

    def _reset_power(self):
        for index in range(_BINS):
            self._bins[index] = 0
        self._bin_sum_mw = self._bin_count = self._bin_index = self._low_bins = 0
        self._bin_end_ms = None
        self._peak_mean_mw = 0

    def resume(self, charged):
        """Go on with a session that was open before a reboot."""
        self._begin()
        self._charged = charged

    def _begin(self):
        self.is_open = True
        self.phase = self._next_phase = None
        self._charged = False
        self.finished_ms = None
        self._suspended_ms = self._fault_ms = None
        self._reset_power()  # last: a call may fail

    def _opens(self, plugged, since_ms, mono_ms):
        """Whether a car has been there for long enough, in whatever states."""
        if not plugged:
            self._plugged_ms = None
            return False
        if self._plugged_ms is None:
            self._plugged_ms = since_ms
        return mono_ms - self._plugged_ms >= _OPEN_MS

    def step(self, state, pwm, since_ms, mono_ms, happened):
        """`state` as in pilot.py (None: not known yet), held since `since_ms`. What comes of it is
        appended to `happened`, each event before it changes anything here: where there is no
        memory for it, the next window makes it anew."""
        if state is None:
            return
        if pwm != self._pwm:
            # Two equal windows made the change: the one before this showed it first.
            self._pwm_ms = since_ms if self._pwm is None else self._step_ms
            self._pwm = pwm
        self._step_ms = mono_ms
        begun_ms = max(since_ms, self._pwm_ms)
        held_ms = mono_ms - since_ms
        plugged = pilot.B <= state <= pilot.D
        opens = self._opens(plugged, since_ms, mono_ms)
        if not self.is_open:
            if not opens:
                return
            happened.append((OPEN, self._plugged_ms))
            self._begin()
        if state == pilot.A:
            if held_ms >= _CLOSE_MS:
                happened.append((CLOSE, since_ms))
                self.is_open = False
                self.phase = None
            return
        if plugged:
            self._fault_ms = None
            if state == pilot.B:
                if self._charged:
                    phase = SUSPENDED_EV if pwm else SUSPENDED_EVSE
                else:
                    phase = CONNECTED
            else:
                phase = CHARGING if pwm else SUSPENDED_EVSE
        else:
            if self._fault_ms is None:
                self._fault_ms = since_ms
            if mono_ms - self._fault_ms >= _FAULT_CLOSES_MS:
                happened.append((ABORT, mono_ms))
                self.is_open = False
                self.phase = None
                return
            if mono_ms - self._fault_ms < _FAULT_MS:
                return
            phase = FAULT
            begun_ms = self._fault_ms
        self._enter(phase, begun_ms, mono_ms, happened)
        if (self.phase == SUSPENDED_EV and self.finished_ms is None
                and mono_ms - self._suspended_ms >= self._finished_after_ms):
            self._finish(self._suspended_ms, happened)

    def _enter(self, phase, begun_ms, mono_ms, happened):
        if phase == self.phase:
            self._next_phase = None
            return
        if phase != self._next_phase:
            self._next_phase = phase
            self._next_phase_ms = begun_ms
        if mono_ms - self._next_phase_ms < _PHASE_MS:
            return
        happened.append((phase, self._next_phase_ms))
        self.phase = phase
        self.phase_ms = self._next_phase_ms
        self._next_phase = None
        if phase == SUSPENDED_EV:
            self._suspended_ms = self._next_phase_ms
        if phase == CHARGING:
            self._charged = True
            self.finished_ms = None
            self._reset_power()

    def _finish(self, at_ms, happened):
        happened.append((FINISHED, at_ms))
        self.finished_ms = at_ms

    def power(self, power_mw, mono_ms):
        """Take a power reading while charging; returns True when the low power of the last 10
        minutes (under 5 % of the session's highest 5-minute mean) says that the car is done."""
        if self.phase != CHARGING:
            return False
        if self._bin_end_ms is None:
            self._bin_end_ms = mono_ms + _BIN_MS
        self._bin_sum_mw += abs(power_mw)
        self._bin_count += 1
        if mono_ms < self._bin_end_ms:
            return False
        self._bin_end_ms = mono_ms + _BIN_MS
        mean_mw = self._bin_sum_mw // self._bin_count
        self._bin_sum_mw = self._bin_count = 0
        self._bins[self._bin_index % _BINS] = mean_mw
        self._bin_index += 1
        if self._bin_index >= _BINS:
            self._peak_mean_mw = max(self._peak_mean_mw, sum(self._bins) // _BINS)
        if self._peak_mean_mw and mean_mw * 20 < self._peak_mean_mw:
            self._low_bins += 1
        else:
            self._low_bins = 0
            self.finished_ms = None
        if self._low_bins < _LOW_BINS or self.finished_ms is not None:
            return False
        self.finished_ms = mono_ms
        return True
