"""Keeps the tasks alive: one that dies is reported, counted and started again with backoff; the
watchdog is fed while every metering task checks in."""

import asyncio
import sys

from micropython import const

from evmeter.system.log import log

_FIRST_PAUSE_MS = const(500)
_LONGEST_PAUSE_MS = const(60000)
_FEED_MS = const(500)
_CHECK_IN_MS = const(20000)


class Supervisor:
    """`report(name, error)` is told of each task that died."""

    def __init__(self, clock, watchdog, report):
        self._clock = clock
        self._watchdog = watchdog
        self._report = report
        self._seen = {}
        self._tasks = []  # held here: an asyncio task without a reference may be collected
        self.restarts = 0

    def check_in(self, name):
        """Task `name` is alive now. The first call makes the watchdog depend on it."""
        self._seen[name] = self._clock.mono_ms()

    def start(self, name, function):
        """Run the coroutine function for ever."""
        self._tasks.append(asyncio.create_task(self._keep(name, function)))

    async def _keep(self, name, function):
        pause_ms = _FIRST_PAUSE_MS
        while True:
            started_ms = self._clock.mono_ms()
            try:
                await function()
                return
            except Exception as error:
                sys.print_exception(error)
                log.error("task %s died: %s", name, error)
                self.restarts += 1
                self._report(name, error)
            if self._clock.mono_ms() - started_ms > _LONGEST_PAUSE_MS:
                pause_ms = _FIRST_PAUSE_MS
            await asyncio.sleep_ms(pause_ms)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)

    def late(self):
        """Names of the tasks that have not checked in for 20 s."""
        now_ms = self._clock.mono_ms()
        return [name for name in self._seen if now_ms - self._seen[name] > _CHECK_IN_MS]

    async def run(self):
        """Feed the watchdog for as long as nobody is late."""
        while True:
            if self._watchdog and not self.late():
                self._watchdog.feed()
            await asyncio.sleep_ms(_FEED_MS)
