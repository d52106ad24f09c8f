"""Keeps the tasks alive: one that dies is reported, counted and started again with backoff; the
watchdog is fed while every metering task checks in."""

import asyncio
import gc
import io
import sys

from micropython import const

from evmeter.system.log import log

_FIRST_PAUSE_MS = const(500)
_LONGEST_PAUSE_MS = const(60000)
_FEED_MS = const(500)
_CHECK_IN_MS = const(20000)
_TRACE_CHARS = const(600)


def _trace(error):
    """Where it came from: the traceback, innermost call last."""
    text = io.StringIO()
    sys.print_exception(error, text)
    return text.getvalue().strip()


def _end(text):
    """The end of a text. What is no printable ASCII would take up to six characters in an audit
    entry, whose length is limited: a ? stands for it."""
    kept = bytearray(text[-_TRACE_CHARS:].encode()[-_TRACE_CHARS:])
    for index, one in enumerate(kept):
        if not 32 <= one < 127 and one != 10:
            kept[index] = 63
    return kept.decode()


class Supervisor:
    """`report(name, error, trace)` is told of each task that died."""

    def __init__(self, clock, watchdog, report, sleep_ms=None):
        self._clock = clock
        self._watchdog = watchdog
        self._report = report
        self._sleep_ms = sleep_ms or asyncio.sleep_ms
        self._due_ms = {}
        self._tasks = []  # held here: an asyncio task without a reference may be collected
        self.restarts = 0
        self.untold = 0  # what there was no memory to tell of

    def check_in(self, name, within_ms=_CHECK_IN_MS):
        """Task `name` is alive now, and will say so again `within_ms`. The first call makes the
        watchdog depend on it."""
        self._due_ms[name] = self._clock.mono_ms() + within_ms

    def start(self, name, function):
        """Run the coroutine function for ever."""
        self._tasks.append(asyncio.create_task(self._keep(name, function)))

    async def _keep(self, name, function):
        pause_ms = started_ms = 0
        while True:
            try:  # nothing outside of it, however small: what fails there ends the task for good
                if pause_ms:
                    if self._clock.mono_ms() - started_ms > _LONGEST_PAUSE_MS:
                        pause_ms = _FIRST_PAUSE_MS
                    await self._sleep_ms(pause_ms)
                    pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)
                pause_ms = pause_ms or _FIRST_PAUSE_MS
                started_ms = self._clock.mono_ms()
                await function()
                return
            except Exception as error:
                self._tell(name, error)

    def _tell(self, name, error):
        """Count it and report it, without its trace where there is no memory for that."""
        self.restarts += 1
        for trace in (_trace, repr):
            try:
                text = _end(trace(error))
                log.error("task %s died: %s", name, text)
                self._report(name, error, text)
                return
            except Exception:
                gc.collect()
        self.untold += 1

    def late(self):
        """Names of the tasks whose time to check in is over."""
        now_ms = self._clock.mono_ms()
        return [name for name in self._due_ms if now_ms > self._due_ms[name]]

    async def run(self):
        """Feed the watchdog for as long as nobody is late."""
        while True:
            try:
                await self._sleep_ms(_FEED_MS)
                if self._watchdog and not self.late():
                    self._watchdog.feed()
            except MemoryError:
                self.untold += 1
            except Exception as error:
                self._tell("supervisor", error)
