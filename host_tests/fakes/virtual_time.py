"""Time that passes only while every task sleeps: tests of seconds run in milliseconds."""

import asyncio

_PERIOD = 2**30


class VirtualTime:
    """Stands in for `time` (ticks_ms, ticks_diff), for a Clock (mono_ms) and for
    asyncio.sleep_ms. Ticks wrap as on a 32-bit port; `start_ms` begins close to a wrap."""

    def __init__(self, start_ms=_PERIOD - 5000):
        self._start_us = start_ms * 1000
        self.now_us = self._start_us
        self._due = []
        self._idle = 0

    def ticks_ms(self):
        return self.now_us // 1000 % _PERIOD

    def ticks_diff(self, end, start):
        half = _PERIOD // 2
        return (end - start + half) % _PERIOD - half

    def mono_ms(self):
        return (self.now_us - self._start_us) // 1000

    def pass_ms(self, ms):
        """Time that passes while nothing else can run."""
        self.now_us += ms * 1000

    async def sleep_ms(self, ms):
        # Like asyncio's: wakes on a tick, never early.
        due_us = (self.now_us // 1000 + ms) * 1000
        self._due.append(due_us)
        self._idle = 0
        try:
            while True:
                await asyncio.sleep_ms(0)
                if self.now_us >= due_us:
                    return
                self._idle += 1
                if self._idle > 2 * len(self._due):  # every other task has had its turn
                    self.now_us = max(self.now_us, min(self._due))
        finally:
            self._idle = 0
            self._due.remove(due_us)
