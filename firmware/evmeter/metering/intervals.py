"""Load profile: energy of clock-aligned 15-minute intervals from register readings.

An interval goes from the first believed reading in it to the first one in the next, so that the
intervals add up to the register's own difference, over reboots too. Slots are those of UTC: summer
time moves none of them where its offset is whole quarters of an hour.
"""

from micropython import const

LENGTH_S = const(900)
LONG_S = const(3600)  # when the journal's room runs out
_HOLE_MS = const(60000)  # a longer time without a reading makes an interval partial
_LATE_S = const(2)
_STEP_S = const(60)  # so far may the clock move against monotonic time

OK = "ok"
PARTIAL = "partial"
CLOCK = "clock"


class Intervals:
    """Feed it each believed register; `closed` is the interval that waits to be written, as
    (start Unix s, length s, start register mWh, energy mWh, highest power mW, quality), or None.

    `start_mwh` is where the last written interval ended (None: none was written yet). Quality is
    "ok", "partial" (begun late or with a hole) or "clock" (time unknown or set inside it).
    """

    def __init__(self, start_mwh=None):
        self.closed = None
        self.length_s = LENGTH_S
        self._start_mwh = start_mwh
        self._slot_s = None
        self._slot_length_s = LENGTH_S
        self._quality = PARTIAL
        self._peak_mw = 0
        self._last_ms = None
        self._offset_s = 0

    def reading(self, register_mwh, power_mw, mono_ms, unix_s, clock_known):
        """Take a reading made at `mono_ms`, which was `unix_s` by the clock."""
        if self._start_mwh is None:
            self._start_mwh = register_mwh
        offset_s = unix_s - mono_ms // 1000
        if self._slot_s is None:
            self._begin(unix_s, 0)
            if register_mwh != self._start_mwh:
                self._quality = PARTIAL
        else:
            if abs(offset_s - self._offset_s) > _STEP_S:
                self._quality = CLOCK
            elif mono_ms - self._last_ms > _HOLE_MS and self._quality == OK:
                self._quality = PARTIAL
            if not self._slot_s <= unix_s < self._slot_s + self._slot_length_s:
                self._close(register_mwh)
                self._begin(unix_s, _HOLE_MS // 1000)
        if not clock_known:
            self._quality = CLOCK
        self._offset_s = offset_s
        self._last_ms = mono_ms
        if power_mw is not None and power_mw > self._peak_mw:
            self._peak_mw = power_mw

    def _begin(self, unix_s, late_s):
        self._slot_length_s = self.length_s
        self._slot_s = unix_s - unix_s % self.length_s
        self._quality = PARTIAL if unix_s - self._slot_s > late_s + _LATE_S else OK
        self._peak_mw = 0

    def _close(self, register_mwh):
        start_s, start_mwh = self._slot_s, self._start_mwh
        length_s, peak_mw, quality = self._slot_length_s, self._peak_mw, self._quality
        if self.closed:  # the one before could not be written yet: one longer interval, partial
            length_s += max(0, start_s - self.closed[0])
            start_s, _, start_mwh, _, peak, _ = self.closed
            peak_mw = max(peak, peak_mw)
            quality = PARTIAL
        self.closed = (start_s, length_s, start_mwh, register_mwh - start_mwh, peak_mw, quality)
        self._start_mwh = register_mwh

    def rebase(self, jump_mwh):
        """The register goes on from elsewhere, by `jump_mwh`; that is no energy."""
        if self._start_mwh is not None:
            self._start_mwh += jump_mwh
            self._quality = PARTIAL

    def written(self):
        """The closed interval is durable."""
        self.closed = None
