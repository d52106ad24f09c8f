"""Monotonic time and wall-clock time with its quality.

Durations come from `mono_ms` only. The wall clock is an offset to it, so that setting the clock
never changes a duration and a past instant can be dated after the clock became known.
"""

import time

from micropython import const

_EARLIEST_S = const(1577836800)  # 2020-01-01: earlier is an unset clock


class Clock:
    """Time since boot and, when something has set it, Unix time.

    `floor_unix_ms` is the earliest time that can be true (build time or newest record); until the
    clock is set, `now` counts up from it with quality U. `ticks` has ticks_ms and ticks_diff.
    """

    def __init__(self, floor_unix_ms=0, ticks=time):
        self._ticks = ticks
        self._last_ticks = ticks.ticks_ms()
        self._mono_ms = 0
        self._offset_ms = floor_unix_ms
        self.quality = "U"
        self.uncertainty_ms = None
        self.set_at_mono_ms = None

    def mono_ms(self):
        """Milliseconds since boot. Never wraps, if called at least once in 6 days
        (MicroPython's ticks wrap at 2**30 ms)."""
        now = self._ticks.ticks_ms()
        self._mono_ms += self._ticks.ticks_diff(now, self._last_ticks)
        self._last_ticks = now
        return self._mono_ms

    def set(self, unix_ms, quality, uncertainty_ms, mono_ms=None):
        """Say that it was `unix_ms` at `mono_ms` (now, when not given). Quality is I, S or R.

        Returns the step in ms that dates make against the clock before. Raises ValueError on an
        unknown quality or a time before the floor of 2020.
        """
        if quality not in ("I", "S", "R"):
            raise ValueError("clock quality %r is not one of I, S, R" % (quality,))
        if unix_ms < _EARLIEST_S * 1000:
            raise ValueError("clock time %d ms is before 2020" % unix_ms)
        if mono_ms is None:
            mono_ms = self.mono_ms()
        offset_ms = unix_ms - mono_ms
        step_ms = offset_ms - self._offset_ms
        self._offset_ms = offset_ms
        self.quality = quality
        self.uncertainty_ms = uncertainty_ms
        self.set_at_mono_ms = mono_ms
        return step_ms

    def raise_floor(self, unix_ms):
        """While the clock is not set: it is at least `unix_ms` now (the newest record's time)."""
        if self.quality == "U":
            self._offset_ms = max(self._offset_ms, unix_ms - self.mono_ms())

    def unix_ms_at(self, mono_ms):
        """Unix time in ms of the instant `mono_ms`."""
        return self._offset_ms + mono_ms

    def now(self):
        """(Unix time in ms, quality letter U, I, S or R)."""
        return self._offset_ms + self.mono_ms(), self.quality

    def unix_s(self):
        """Unix time in whole seconds."""
        return (self._offset_ms + self.mono_ms()) // 1000
