"""Control pilot sampler on a plain ADC: levels of both halves of the 1 kHz PWM.

A window is 250 reads with a jittered pause, over 10 PWM periods or more: read times that lock to
the PWM would see one half only. The levels are medians of the upper and the lower half, so that
single spikes and noise do not move them.
"""

from micropython import const

_READS = const(250)
_OUTLIERS = const(2)  # so many spikes on either side are ignored
_PWM_MV = const(3000)  # a smaller distance between the halves is no PWM

# zero volts at the pin in microvolts, gain in 1/10000 (reference: board schematics)
FRONT_ENDS = {
    "fe1": (1337500, 1021),  # esp32-evse
    "fe2": (1650000, 1250),  # 0 to 3.3 V
    "fe3": (1300000, 885),  # stays in the linear range of the ESP32's ADC, 150 to 2450 mV
}


class ControlPilot:
    """Samples the pilot through `adc.read_uv()`; `pace_us(us)` waits between two reads (None: the
    samples are spaced already). After `sample`: `high_mv`, `low_mv` on the pilot, `pwm`."""

    def __init__(self, adc, front_end, pace_us=None):
        if front_end not in FRONT_ENDS:
            raise ValueError("front end %s is not one of %s"
                             % (front_end, ", ".join(sorted(FRONT_ENDS))))
        self._zero_uv, self._gain = FRONT_ENDS[front_end]
        self._read_uv = adc.read_uv
        self._pace_us = pace_us
        self._samples = [0] * _READS
        self._jitter = 1
        self.high_mv = self.low_mv = 0
        self.pwm = False

    def _pilot_mv(self, pin_uv):
        return (pin_uv - self._zero_uv) * 10 // self._gain

    def sample(self):
        """Read one window; about 12 ms on an ESP32. Raises OSError when the ADC does not read."""
        samples = self._samples
        read_uv = self._read_uv
        pace_us = self._pace_us
        jitter = self._jitter
        for index in range(_READS):
            samples[index] = read_uv()
            if pace_us:
                jitter = (jitter * 75 + 74) % 65537
                pace_us(jitter & 15)
        self._jitter = jitter
        samples.sort()
        low_uv = samples[_OUTLIERS]
        high_uv = samples[_READS - 1 - _OUTLIERS]
        middle_uv = (low_uv + high_uv) // 2
        self.pwm = (high_uv - low_uv) * 10 // self._gain >= _PWM_MV
        split = 0
        if self.pwm:
            while samples[split] < middle_uv:
                split += 1
            self.low_mv = self._pilot_mv(samples[split // 2])
            self.high_mv = self._pilot_mv(samples[(split + _READS) // 2])
        else:
            self.high_mv = self.low_mv = self._pilot_mv(samples[_READS // 2])
