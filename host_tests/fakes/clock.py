"""Time that passes by hand."""


class FakeClock:
    """Time that passes when the test says so; `unix_ms` continues over a reboot."""

    def __init__(self, unix_ms, quality="I"):
        self._unix_ms = unix_ms
        self._mono_ms = 0
        self.holds = self.steps = 0
        self.quality = quality

    def advance(self, ms):
        self._mono_ms += ms

    def mono_ms(self):
        return self._mono_ms

    def hold(self):
        self.holds += 1

    def release(self):
        self.holds -= 1

    def raise_floor(self, unix_ms):
        if self.quality == "U":
            self._unix_ms = max(self._unix_ms, unix_ms - self._mono_ms)

    def unix_ms_at(self, mono_ms):
        return self._unix_ms + mono_ms

    def now(self):
        return self._unix_ms + self._mono_ms, self.quality
