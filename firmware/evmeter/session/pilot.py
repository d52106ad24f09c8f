"""Control pilot state from sampled levels: hysteresis, dead bands, two equal windows.

Levels are volts on the pilot in mV. Decision levels as chargebyte and esp32-evse use them for
IEC 61851-1 Table A.4, with a dead band of 0.6 to 0.8 V at each border but the lowest.
"""

from micropython import const

A = const(0)
B = const(1)
C = const(2)
D = const(3)
E = const(4)
F = const(5)
NAMES = "ABCDEF"

# Borders A/B, B/C, C/D, D/E: to rise above, to fall below. The last one lies higher than others
# have it: behind front end fe2, a pin that hangs in the air shows 1.9 V, and D is 2.6 V at least.
_UP_MV = (10900, 7800, 4800, 2300)
_DOWN_MV = (10100, 7100, 4000, 2150)
_F_MS = const(50)
_LOW_SIDE_MV = const(-10000)  # -12 V, sagging to -10.7, through a front end that is 6 % off
_LOW_GOOD_MV = const(-11400)
_CLAMP_MV = const(1200)
_POSITIVE_MV = const(2000)
_SAME_MV = const(700)  # windows further apart are not equal: the level is on its way
_MOVING_MS = const(300)


def classify(high_mv, previous):
    """State A to F of a window with upper level `high_mv`; `previous` is the state before, for the
    dead bands."""
    if high_mv <= _LOW_SIDE_MV:
        return F
    state = A
    for border in range(4):
        limit = _DOWN_MV[border] if previous <= border else _UP_MV[border]
        if border == D and previous != D:
            limit = _UP_MV[border]  # D leaves a level that only D has
        if high_mv >= limit:
            break
        state = border + 1
    return state


def diode_missing(high_mv, low_mv, pwm):
    """PWM whose negative half is clamped like its positive half: a test plug or tampering."""
    return (pwm and high_mv > _POSITIVE_MV and low_mv > _LOW_SIDE_MV
            and abs(high_mv + low_mv) <= _CLAMP_MV)


def digital(duty_permille):
    """Whether a duty cycle, None where it is not known, calls for digital communication: 3 to
    7 %, nominally 5 %."""
    return duty_permille is not None and 30 <= duty_permille <= 70


def offered_ma(duty_permille):
    """Current in mA that a duty cycle offers, IEC 61851-1 Table A.7; 0: the car may not charge.
    None where the pilot does not tell: duty not known, or digital communication."""
    if duty_permille is None or digital(duty_permille):
        return None
    if duty_permille < 80 or duty_permille > 970:
        return 0
    if duty_permille < 100:
        return 6000
    if duty_permille <= 850:
        return 60 * duty_permille
    return min(80000, 250 * (duty_permille - 640))


class PilotFilter:
    """The believed pilot state; a change counts once two windows in a row show it, at levels that
    do not move.

    state        None before the first two equal windows
    since_ms     monotonic time of the first window that showed the change to this state: the first
                 one that left the level before, for up to 300 ms on the way
    seen_ms      monotonic time of the newest window that showed this state: it was held until then
    pwm          whether the charger offers current by PWM
    diode_fault  no diode behind the plug
    low_weak     the PWM's negative half does not reach -11.4 V
    cp_short     state E with both halves at 0 V: shorted, or switched off, not pulled down by a
                 car behind its diode
    """

    def __init__(self):
        self.state = None
        self.pwm = self.diode_fault = self.low_weak = self.cp_short = False
        self.since_ms = self.seen_ms = 0
        self._level_mv = None  # of the believed state
        self._left_ms = None  # first window away from it
        self._seen = None
        self._seen_mv = self._seen_ms = 0

    def window(self, high_mv, low_mv, pwm, mono_ms):
        """Take one window's levels; returns True when what is believed changed. `high_mv` None:
        the level changed inside the window."""
        if high_mv is None:
            self._seen = None
            if self._left_ms is None:
                self._left_ms = mono_ms
            return False
        near = self._level_mv is not None and abs(high_mv - self._level_mv) <= _SAME_MV
        if near:
            self._left_ms = None
        elif self._left_ms is None:
            self._left_ms = mono_ms
        state = classify(high_mv, E if self.state is None else self.state)
        diode = diode_missing(high_mv, low_mv, pwm)
        seen = state + 8 * pwm + 16 * diode
        equal = seen == self._seen and abs(high_mv - self._seen_mv) <= _SAME_MV
        self._seen_mv = high_mv
        if state == self.state:
            self.seen_ms = mono_ms
        if not equal:
            self._seen = seen
            self._seen_ms = mono_ms
            return False
        if state == F and mono_ms - self._seen_ms < _F_MS:
            return False
        self.low_weak = pwm and low_mv > _LOW_GOOD_MV
        self.cp_short = state == E and abs(high_mv + low_mv) <= _CLAMP_MV
        self._level_mv = high_mv
        left_ms = self._left_ms
        self._left_ms = None
        if state == self.state and pwm == self.pwm and diode == self.diode_fault:
            return False
        # The offer coming or going does not make the plugged state any younger.
        if state != self.state:
            self.since_ms = self._seen_ms
            if left_ms is not None and self._seen_ms - left_ms <= _MOVING_MS:
                self.since_ms = left_ms
        self.state = state
        self.seen_ms = mono_ms
        self.pwm = pwm
        self.diode_fault = diode
        return True
