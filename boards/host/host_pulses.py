"""The pulse input: edges of an emulated S0 contact from a file that the bench appends to.

Each edge is an int32, little-endian as the host: the host's monotonic time in ms, modulo 2^29,
times 2, plus the new level (1 is open). The bench writes an edge up to a second before its time
comes, so that none is late.
"""

import os
import time
from array import array

from micropython import const

from drivers.pulse_meter import EdgeRing

_MASK = const(0x1FFFFFFF)
_AHEAD_MS = const(1000)
_WORDS = const(64)


class _Contact:
    """The contact as pin and clock of an EdgeRing. While edges are handed over, its time is
    theirs; then it stands at the present until `release`."""

    def __init__(self, path):
        open(path, "ab").close()
        self._file = open(path, "rb", buffering=0)
        self._words = array("i", [0] * _WORDS)
        self._count = self._next = 0
        self._held_ms = None
        self.level = 1
        # a chip that was off has seen nothing but the level
        self._file.seek(max(0, os.stat(path)[6] // 4 - _WORDS) * 4)
        self.hand_over(None)

    def __call__(self):
        return self.level

    def ticks_ms(self):
        return time.ticks_ms() if self._held_ms is None else self._held_ms

    def ticks_diff(self, end, start):
        return time.ticks_diff(end, start)

    def _refill(self):
        words = self._words
        came = self._file.readinto(words) or 0
        if came & 3:
            self._file.seek(-(came & 3), 1)
        self._count = came >> 2
        self._next = 0
        return self._count

    def hand_over(self, isr):
        """Call `isr` for each edge until now."""
        now_ms = time.ticks_ms()
        while self._next < self._count or self._refill():
            word = self._words[self._next]
            ahead_ms = ((word >> 1) - now_ms) & _MASK
            if 0 < ahead_ms <= _AHEAD_MS:
                break
            self._next += 1
            self.level = word & 1
            if isr:
                # all arithmetic with ticks wraps; how long ago it was does not
                self._held_ms = time.ticks_add(now_ms, -((now_ms - (word >> 1)) & _MASK))
                isr(None)
        self._held_ms = now_ms

    def release(self):
        self._held_ms = None


class PulseInput(EdgeRing):
    """What drivers.pulse_meter.PulseMeter takes as `edges`, over the file `path`."""

    def __init__(self, path):
        self._contact = _Contact(path)
        super().__init__(self._contact, ticks=self._contact)
        self._contact.release()
        self._bound_isr = self.isr  # binding takes memory

    def value(self):
        """Pulses until now."""
        self._contact.hand_over(self._bound_isr)
        pulses = EdgeRing.value(self)
        self._contact.release()
        return pulses
