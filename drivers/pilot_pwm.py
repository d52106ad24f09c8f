"""The pilot's PWM: what current the car is offered, for boards that drive the pilot themselves.

1 kHz, and a duty cycle as IEC 61851-1 Table A.7 has it, in percent: current / 0.6 A up to 51 A,
current / 2.5 A + 64 above. It is rounded down: never more is offered than was asked for.
"""

from micropython import const

_HERTZ = const(1000)
_FULL = const(65536)  # duty_u16 of a level that never changes
_STEP = const(8)  # a timer has 13 bits at least
_LEAST_MA = const(6000)
_MOST_MA = const(80000)
_KNEE_MA = const(51000)  # at 85 % both formulas would hold: 51 A and 52.5 A
_LOW_MA = const(60000)  # at 100 % by the lower formula
_HIGH_MA = const(250000)  # 2.5 A a percent
_HIGH_SHARE = const(41943)  # 64 %


def duty_u16(ma):
    """The positive share of a period in 1/65,536 for an offer of `ma`: 0 (no offer: a steady
    +12 V), or 6,000 to 80,000. Raises ValueError."""
    if ma == 0:
        return _FULL
    if not _LEAST_MA <= ma <= _MOST_MA:
        raise ValueError("an offer of %d mA; allowed: 0, %d to %d" % (ma, _LEAST_MA, _MOST_MA))
    if ma <= _KNEE_MA:
        return ma * _FULL // _LOW_MA
    return max(ma * _FULL // _HIGH_MA + _HIGH_SHARE, _KNEE_MA * _FULL // _LOW_MA)


class PilotPwm:
    """`pwm` drives the pilot: `freq(hertz)` and `duty_u16(value)`, which without an argument gives
    what is set (machine.PWM). `max_ma`: what wiring and contactor carry. `inverted`: the output is
    high while the pilot is negative.

    offered_ma   what was asked for last, None before
    fault        "", or why the output may not be what was asked for
    """

    def __init__(self, pwm, max_ma, inverted=False):
        duty_u16(max_ma or -1)
        self._pwm = pwm
        self._inverted = inverted
        self.max_ma = max_ma
        self.offered_ma = None
        self.fault = ""

    def offer(self, ma):
        """Offer `ma`, at most `max_ma`; 0 takes the offer back. Raises ValueError, whereupon
        nothing changes; what the hardware says goes into `fault`."""
        if ma > self.max_ma:
            raise ValueError("an offer of %d mA; allowed: at most %d" % (ma, self.max_ma))
        duty = duty_u16(ma)
        if self._inverted:  # the timer rounds down: the negative share must not come out shorter
            duty = (_FULL - duty + _STEP - 1) // _STEP * _STEP
        self.offered_ma = ma
        try:
            found = self._set(duty)
        except (OSError, ValueError) as error:
            self.fault = "pilot output not reached: %s" % error
            return
        self.fault = "" if abs(found - duty) <= _STEP else (
            "pilot output is at %d of 65536, not at %d" % (found, duty))

    def _set(self, duty):
        pwm = self._pwm
        pwm.freq(_HERTZ)
        try:
            pwm.duty_u16(duty)
        except ValueError:
            if duty != _FULL:
                raise
            pwm.duty_u16(_FULL - 1)  # so older releases have it
        return pwm.duty_u16()
