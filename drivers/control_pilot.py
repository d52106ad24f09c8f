"""Control pilot sampler on a plain ADC: levels of both halves of the 1 kHz PWM.

A window is 250 reads with a jittered pause, over 10 PWM periods or more: read times that lock to
the PWM would see one half only. Each half of a window is judged for itself, by quantiles of its
upper and its lower samples: spikes, noise and slow edges do not move the levels, and a window in
which the level changed is told from a steady one.
"""

import time

from micropython import const

_READS = const(250)
_HALF = const(125)
_OUTLIERS = const(2)  # so many spikes on either side of half a window are ignored
_PWM_MV = const(3000)  # a smaller distance between the levels is no PWM
_NEGATIVE_MV = const(-1500)  # PWM goes below zero, with and without a diode
_MOVED_MV = const(1000)  # from one half of a window to the other
_LEAST_US = const(10500)
_JITTER_US = const(15)
_MOST_PAUSE_US = const(60)

# Level of state A. With a source of 12 V +-0.6 V and a front end as far off, the gain is corrected
# by 8 % at most; the next state below, B, lies 20 % away.
A_MV = const(12000)
_A_LEAST_MV = const(11040)
_A_MOST_MV = const(12960)
_A_STEADY_MV = const(150)
_A_WINDOWS = const(200)  # about 12 s
_ODD = const(3)  # so many windows in a row without it end state A; fewer are spikes
_A_STEP_MV = const(20)
_RAIL_UV = const(2400000)  # no ADC ends below


class ControlPilot:
    """Samples the pilot through `adc.read_uv()`, behind a `front_end` of pilot_front_end.py.

    `pace_us(us)` waits between two reads (None: the samples are spaced already). `edges`, where
    the board has it, gives the PWM's duty by `duty_permille()`, or None. `a_mv`: the attribute of
    that name from an earlier life.

    After `sample`:
    high_mv      upper level on the pilot; None: it changed inside the window
    low_mv, pwm  lower level, and whether there are two
    saturated    the upper level lies at the end of the ADC's range: it may be higher
    a_mv         what state A measured with the front end's own data, 12000 where these hold. It
                 follows state A by itself, and corrects the gain; to be kept where it changed
    duty_permille           from edges, else None; 1000 without PWM
    duty_permille_estimate  from the share of high samples, to about 20; for display only
    """

    duty_permille = None
    duty_permille_estimate = 1000

    def __init__(self, adc, front_end, pace_us=None, edges=None, a_mv=A_MV):
        # needed once; who is short of memory may drop the module
        from drivers.pilot_front_end import front_end_data

        self._zero_uv, self._uv_per_v = front_end_data(front_end)
        self._read_uv = adc.read_uv
        self._pace_us = pace_us
        self._edges = edges
        self._pause_us = 0
        self._samples = [0] * _HALF
        self._jitter = 1
        self._pwm_uv = _PWM_MV * self._uv_per_v // 1000
        self._high_uv = self._low_uv = self._most_uv = self._above = 0
        self._held = self._held_mv = self._sum_mv = self._odd = 0
        self._at_rail = False
        self.high_mv = self.low_mv = 0
        self.pwm = self.saturated = False
        self._correct(a_mv if _A_LEAST_MV <= a_mv <= _A_MOST_MV else A_MV)

    def _correct(self, a_mv):
        self.a_mv = a_mv
        self._gain = self._uv_per_v * (a_mv // 10) // (A_MV // 10) // 10

    def _read(self):
        """Read half a window, in ascending order."""
        samples = self._samples
        read_uv = self._read_uv
        pace_us = self._pace_us
        pause_us = self._pause_us
        jitter = self._jitter
        for index in range(_HALF):
            samples[index] = read_uv()
            if pace_us:
                jitter = (jitter * 75 + 74) % 65537
                pace_us(pause_us + (jitter & _JITTER_US))
        self._jitter = jitter
        samples.sort()

    def _judge(self):
        """Levels of half a window. An outer third of the samples on either side of the middle may
        be spikes; two thirds on the inner side may be slow edges."""
        samples = self._samples
        low_uv = samples[_OUTLIERS]
        high_uv = samples[_HALF - 1 - _OUTLIERS]
        split = 0
        self._at_rail = False
        if high_uv - low_uv >= self._pwm_uv:
            middle_uv = (low_uv + high_uv) // 2
            while samples[split] < middle_uv:
                split += 1
            self._low_uv = samples[split // 3]
            self._high_uv = samples[split + (_HALF - split) * 2 // 3]
        else:
            self._low_uv = self._high_uv = samples[_HALF // 2]
            # noise would move it
            self._at_rail = high_uv >= _RAIL_UV and self._high_uv == samples[_HALF - 1]
        self._above = _HALF - split
        self._most_uv = samples[_HALF - 1]

    def _pilot_mv(self, pin_uv):
        return (pin_uv - self._zero_uv) * 100 // self._gain

    def sample(self):
        """Read one window; about 13 ms on an ESP32. Raises OSError when the ADC does not read."""
        begin_us = time.ticks_us()
        self._read()
        self._judge()
        high_uv = self._high_uv
        first_mv = self._pilot_mv(high_uv)
        low_mv = self._pilot_mv(self._low_uv)
        above = self._above
        at_rail = self._at_rail
        most_uv = self._most_uv
        self._read()
        if self._pace_us:
            short_us = _LEAST_US - time.ticks_diff(time.ticks_us(), begin_us)
            if short_us > 0:  # 250 reads of a fast ADC would be less than 10 periods
                self._pause_us = min(_MOST_PAUSE_US, self._pause_us + short_us // _READS + 1)
        self._judge()
        second_mv = self._pilot_mv(self._high_uv)
        other_mv = self._pilot_mv(self._low_uv)
        if abs(low_mv - other_mv) <= _MOVED_MV:
            low_mv = (low_mv + other_mv) // 2
        else:  # the offer came or went
            low_mv = min(low_mv, other_mv)
        high_mv = (first_mv + second_mv) // 2
        apart = high_mv - low_mv >= _PWM_MV
        pwm = apart and low_mv < _NEGATIVE_MV
        steady = abs(first_mv - second_mv) <= _MOVED_MV and pwm == apart
        if high_mv < -_PWM_MV and max(most_uv, self._most_uv) > self._zero_uv:
            steady = False  # state F has no positive sample at all
        self.high_mv = high_mv if steady else None
        self.low_mv = low_mv
        self.pwm = pwm
        self.saturated = at_rail and self._at_rail
        self._duty(above + self._above)
        if steady and not pwm and not self.saturated:
            mv = ((high_uv + self._high_uv) // 2 - self._zero_uv) * 100 // (self._uv_per_v // 10)
            if _A_LEAST_MV <= mv <= _A_MOST_MV:
                self._odd = 0
                self._follow(mv)
                return
        self._odd += 1
        if self._odd == _ODD:
            self._held = self._odd = 0

    def _duty(self, above):
        if not self.pwm:
            self.duty_permille = self.duty_permille_estimate = 1000
            return
        self.duty_permille_estimate = above * 1000 // _READS
        edges = self._edges
        self.duty_permille = edges.duty_permille() if edges else None

    def _follow(self, mv):
        """Correct the gain once a level that only state A has was held long."""
        if not self._held or abs(mv - self._held_mv) > _A_STEADY_MV:
            self._held = self._sum_mv = 0
            self._held_mv = mv
        self._held += 1
        self._sum_mv += mv
        if self._held == _A_WINDOWS:
            self._held = 0
            mv = self._sum_mv // _A_WINDOWS
            if abs(mv - self.a_mv) >= _A_STEP_MV:
                self._correct(mv)
