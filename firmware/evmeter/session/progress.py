"""What the driver is shown: what the session is doing and why, and how long it may still take.

The session's phases and "finished" are the rules of machine.py; this adds what the power shows.
"""

from micropython import const

from evmeter.session import machine as rules

CHARGING = "charging"
PAUSED_BY_CAR = "paused_by_car"
PAUSED_BY_CHARGER = "paused_by_charger"
WAITING = "waiting_for_car"
NO_CURRENT = "no_current_in_c"
FAULT = "fault"
FINISHED = "finished_estimated"
TARGET = "target_reached"

_NONE_MW = const(100000)  # under 100 W: the car's electronics, no charging
_SOME_MW = const(200000)
_NONE_MS = const(60000)  # cars take up to half a minute from asking to drawing
_SMOOTH_MS = const(60000)


class Progress:
    """Of one session, followed from `mono_ms` on; `elapsed_s` of it passed before a reboot.

    `state` is one of the names above (None at first), held since `since_ms`; `power_mw` is the
    smoothed power, None before the first reading.
    """

    def __init__(self, mono_ms, elapsed_s=0):
        self.state = self.power_mw = None
        self.since_ms = self._power_ms = mono_ms
        self._begin_ms = mono_ms - elapsed_s * 1000
        self._low_ms = None  # since when the power has been about 0
        self._finished_ms = None
        self._reached = False

    def power(self, power_mw, mono_ms):
        """Take a power reading made at `mono_ms`."""
        power_mw = abs(power_mw)
        smooth_mw = self.power_mw
        age_ms = mono_ms - self._power_ms
        self._power_ms = mono_ms
        if smooth_mw is None or not smooth_mw < power_mw * 2 < smooth_mw * 4:
            self.power_mw = power_mw  # a step is no noise
        else:
            self.power_mw += (power_mw - smooth_mw) * age_ms // (_SMOOTH_MS + age_ms)
        if power_mw >= _SOME_MW:
            self._low_ms = None
        elif self._low_ms is None and power_mw < _NONE_MW:
            self._low_ms = mono_ms

    def update(self, phase, phase_ms, pwm, finished_ms, missing_mwh, mono_ms):
        """Take the machine's phase and when it began, whether current is offered, since when the
        car is finished (None: it is not) and the energy to the target (None: there is none).
        Returns what changed: a list of (name, ms since boot at which it did, reason)."""
        self._finished_ms = finished_ms
        at_ms = phase_ms
        if phase == rules.FAULT:
            state, reason = FAULT, "pilot in E or F"
        elif finished_ms is not None:
            state, reason, at_ms = FINISHED, "car does not ask again", finished_ms
            if phase == rules.CHARGING:
                reason = "power stays low"
        elif phase == rules.SUSPENDED_EV:
            state, reason = PAUSED_BY_CAR, "car stopped asking"
        elif phase == rules.CONNECTED and pwm:
            state, reason = WAITING, "car has not asked"
        elif phase != rules.CHARGING:
            state, reason = PAUSED_BY_CHARGER, "no current offered"
        else:
            state, reason = CHARGING, "car asks"
            if self._low_ms is not None:
                low_ms = max(self._low_ms, phase_ms)
                if self.state == NO_CURRENT or mono_ms - low_ms >= _NONE_MS:
                    state, reason, at_ms = NO_CURRENT, "no power", low_ms
            elif self.state == NO_CURRENT:
                reason, at_ms = "power flows", mono_ms
        happened = []
        if phase and state != self.state:
            self.state = state
            self.since_ms = max(self.since_ms, at_ms)
            happened.append((state, self.since_ms, reason))
        reached = missing_mwh is not None and missing_mwh <= 0
        if reached and not self._reached:
            happened.append((TARGET, mono_ms, "target"))
        self._reached = reached
        return happened

    def elapsed_s(self, mono_ms):
        """Seconds of the session so far."""
        return (mono_ms - self._begin_ms) // 1000

    def overstay_s(self, mono_ms):
        """Seconds since the car was finished, None while it is not."""
        return None if self._finished_ms is None else (mono_ms - self._finished_ms) // 1000

    def remaining_s(self, missing_mwh):
        """Seconds to the target at the smoothed power; None while nothing is charged."""
        if missing_mwh <= 0:
            return 0
        if self.state != CHARGING or (self.power_mw or 0) < _NONE_MW:
            return None
        return (missing_mwh * 3600 + self.power_mw - 1) // self.power_mw
