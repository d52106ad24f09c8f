"""Control pilot state from sampled levels: hysteresis, dead bands, two equal windows.

Levels are volts on the pilot in mV. Decision levels as chargebyte and esp32-evse use them for
IEC 61851-1 Table A.4, with a dead band of 0.6 to 0.8 V at each border.
"""

from micropython import const

A = const(0)
B = const(1)
C = const(2)
D = const(3)
E = const(4)
F = const(5)
NAMES = "ABCDEF"

# borders A/B, B/C, C/D, D/E: to rise above, to fall below
_UP_MV = (10900, 7800, 4800, 2200)
_DOWN_MV = (10100, 7100, 4000, 1600)
_F_MV = const(-10500)
_LOW_SIDE_MV = const(-10000)
_DIODE_MV = const(1200)
_POSITIVE_MV = const(2000)


def classify(high_mv, low_mv, pwm, previous):
    """State A to F of a window with upper level `high_mv` and, with `pwm`, lower level `low_mv`;
    `previous` is the state before, for the dead bands."""
    if high_mv <= _F_MV:
        return F
    state = A
    for border in range(4):
        limit = _DOWN_MV[border] if previous <= border else _UP_MV[border]
        if high_mv >= limit:
            break
        state = border + 1
    return state


def diode_missing(high_mv, low_mv, pwm):
    """PWM whose negative half is clamped like its positive half: a test plug or tampering."""
    return pwm and high_mv > _POSITIVE_MV and abs(high_mv + low_mv) <= _DIODE_MV


class PilotFilter:
    """The believed pilot state; a change counts once two windows in a row show it.

    `state` is None before the first two equal windows; `since_ms` is the monotonic time of the
    first window that showed the state, `pwm` whether the charger offers current by PWM.
    """

    def __init__(self):
        self.state = None
        self.pwm = False
        self.diode_fault = False
        self.since_ms = 0
        self._seen = None
        self._seen_ms = 0

    def window(self, high_mv, low_mv, pwm, mono_ms):
        """Take one window's levels; returns True when the believed state changed."""
        before = E if self.state is None else self.state
        state = classify(high_mv, low_mv, pwm, before)
        self.diode_fault = diode_missing(high_mv, low_mv, pwm)
        seen = state + 8 if pwm else state
        if seen != self._seen:
            self._seen = seen
            self._seen_ms = mono_ms
            return False
        if state == self.state and pwm == self.pwm:
            return False
        # The offer coming or going does not make the plugged state any younger.
        if state != self.state:
            self.since_ms = self._seen_ms
        self.state = state
        self.pwm = pwm
        return True
