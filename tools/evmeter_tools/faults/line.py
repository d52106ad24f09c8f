"""A Modbus line on virtual time, without an event loop: a campaign of minutes takes seconds."""

import heapq
import types
from bisect import bisect_right

_PERIOD = 2**30
_HEARD = 1024
_BUFFER = 256  # of the ESP32's driver: what comes while it is full is lost


@types.coroutine
def _sleep(ms):
    yield ms


class Time:
    """Stands in for `time`, for a clock and for asyncio.sleep_ms; `run` is the event loop.

    Ticks wrap as on a 32-bit port.
    """

    def __init__(self, start_ms=_PERIOD - 5000):
        self._start_us = self.now_us = start_ms * 1000
        self._tasks = []
        self._order = 0
        self.sleep_ms = _sleep

    def ticks_ms(self):
        """As time.ticks_ms."""
        return self.now_us // 1000 % _PERIOD

    @staticmethod
    def ticks_diff(end, start):
        """As time.ticks_diff."""
        half = _PERIOD // 2
        return (end - start + half) % _PERIOD - half

    def mono_ms(self):
        """As Clock.mono_ms."""
        return (self.now_us - self._start_us) // 1000

    def spawn(self, coroutine):
        """Let a task begin now."""
        self._order += 1
        heapq.heappush(self._tasks, (self.now_us, self._order, coroutine))

    def run(self, until_us):
        """Run the tasks until that time; what a task raises comes out here."""
        while self._tasks and self._tasks[0][0] <= until_us:
            due_us, _, coroutine = heapq.heappop(self._tasks)
            self.now_us = max(self.now_us, due_us)
            try:
                ms = coroutine.send(None)
            except StopIteration:
                continue
            self._order += 1
            # like asyncio's: wakes on a tick, never early
            heapq.heappush(self._tasks, ((self.now_us // 1000 + (ms or 0)) * 1000, self._order,
                                         coroutine))
        self.now_us = max(self.now_us, until_us)

    def end(self):
        """Take all tasks away."""
        for _, _, coroutine in self._tasks:
            coroutine.close()
        self._tasks.clear()


class LineUart:
    """machine.UART's any, readinto and write at the end of a line.

    `on_request(bytes, end in us)` is told of each request; `deliver` puts bytes on the line.
    """

    def __init__(self, time, char_us, on_request):
        self._time = time
        self.char_us = char_us
        self._on_request = on_request
        self._times = []
        self._bytes = bytearray()
        self.fail = False
        self.heard = bytearray()  # the newest of what was read

    def deliver(self, at_us, data):
        """Put bytes on the line; the first begins at `at_us`."""
        times = [at_us + (index + 1) * self.char_us for index in range(len(data))]
        if not data:
            return
        if not self._times or times[0] >= self._times[-1]:
            self._times += times
            self._bytes += data
            return
        both = sorted([*zip(self._times, self._bytes, strict=True),
                       *zip(times, data, strict=True)], key=lambda entry: entry[0])
        self._times = [entry[0] for entry in both]
        self._bytes = bytearray(entry[1] for entry in both)

    def any(self):
        """How many bytes wait."""
        if self.fail:
            raise OSError(5)
        count = bisect_right(self._times, self._time.now_us)
        if count > _BUFFER:
            del self._times[_BUFFER:count]
            del self._bytes[_BUFFER:count]
            count = _BUFFER
        return count

    def readinto(self, buffer, nbytes=None):
        """Take the oldest waiting bytes."""
        count = min(self.any(), len(buffer))
        if nbytes is not None:
            count = min(count, nbytes)
        buffer[:count] = self._bytes[:count]
        self.heard += self._bytes[:count]
        del self._times[:count]
        del self._bytes[:count]
        return count or None

    def write(self, data):
        """Send a request."""
        if self.fail:
            raise OSError(5)
        del self.heard[:-_HEARD]
        self._on_request(bytes(data), self._time.now_us + len(data) * self.char_us)
        return len(data)
