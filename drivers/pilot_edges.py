"""Duty cycle of the pilot's PWM from a comparator on a pin: 1 us is 0.06 A, too fine for the ADC.

Only for boards that have the comparator; ControlPilot takes it as `edges`.
"""

from micropython import const

_TIMEOUT_US = const(2500)
_LEAST_US = const(980)  # of a period; SAE J1772 allows 980 to 1020 Hz
_MOST_US = const(1021)
_TRIES = const(3)


class PilotEdges:
    """`pulse_us(pin, level, timeout_us)` is machine.time_pulse_us; `high` is the pin's level while
    the pilot is positive."""

    def __init__(self, pin, pulse_us, high=1):
        self._pin = pin
        self._pulse_us = pulse_us
        self._high = high

    def duty_permille(self):
        """Positive share of a period in permille, or None: no PWM, or an interrupt fell into each
        of three tries. Takes 15 ms at most with PWM, and twice 2.5 ms without."""
        for _ in range(_TRIES):
            high_us = self._pulse_us(self._pin, self._high, _TIMEOUT_US)
            low_us = self._pulse_us(self._pin, 1 - self._high, _TIMEOUT_US)
            if high_us < 0 or low_us < 0:
                return None
            period_us = high_us + low_us
            if _LEAST_US <= period_us <= _MOST_US:
                return (high_us * 1000 + period_us // 2) // period_us
        return None
