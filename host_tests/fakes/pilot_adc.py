"""An ADC that reads a pilot of given levels."""

from drivers.pilot_front_end import front_end_data

_STEP_US = 40


class Adc:
    """The pin voltage of a pilot; `levels`: rows (from ms, high mV, low mV, duty in percent)."""

    def __init__(self, front_end, levels, noise_mv=45, gain=100, top_uv=3300000):
        self._zero_uv, self._uv_per_v = front_end_data(front_end)
        self.levels = levels if isinstance(levels, list) else [(0,) + levels]
        self._noise = noise_mv
        self._gain = gain  # percent
        self._top_uv = top_uv
        self._random = 12345
        self._phase_us = 321
        self._now_us = 0
        self.spikes = {}  # number of the read -> mV
        self.reads = 0

    def draw(self, less_than):
        self._random = (self._random * 75 + 74) % 65537
        return self._random % less_than

    def quick_uv(self):
        """Some level that costs no memory."""
        return 2096500 if self.draw(2) else 238000

    def pace_us(self, us):
        pass

    def read_uv(self):
        self._now_us += _STEP_US - 10 + self.draw(21)
        for begin_ms, high_mv, low_mv, duty in self.levels:
            if self._now_us >= begin_ms * 1000:
                mv = high_mv if (self._now_us + self._phase_us) % 1000 < 10 * duty else low_mv
        if self._noise:
            mv += self.draw(2 * self._noise) - self._noise
        mv += self.spikes.get(self.reads, 0)
        self.reads += 1
        return min(self._top_uv, self._zero_uv + mv * self._gain // 100 * self._uv_per_v // 1000)
