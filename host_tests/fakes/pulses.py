"""A pulse contact on time that the test moves, a counter in hardware, a store that tears."""

from fakes.memory_store import MemoryNvs, Power

PERIOD = 2**30  # of MicroPython's ticks on a 32-bit port


class Ticks:
    """`time` and a Clock in one: ticks wrap, monotonic ms do not."""

    def __init__(self, start_ms=0):
        self._start_ms = start_ms
        self.ms = 0

    def ticks_ms(self):
        return (self._start_ms + self.ms) % PERIOD

    def ticks_diff(self, end, start):
        half = PERIOD // 2
        return (end - start + half) % PERIOD - half

    def mono_ms(self):
        return self.ms


class Contact:
    """A contact with a pull-up: 1 is open, 0 closed. `isr` is called at each edge; `after_each`
    (None or a function) after each pause, as other tasks would run."""

    def __init__(self, ticks):
        self._ticks = ticks
        self.level = 1
        self.isr = None
        self.after_each = None
        self.edges = 0

    def __call__(self):
        return self.level

    def wait(self, ms):
        self._ticks.ms += ms
        if self.after_each:
            self.after_each()

    def to(self, level, bounces=0, bounce_ms=1):
        """Go to `level`, and fall back `bounces` times before it stays."""
        for step in range(2 * bounces + 1):
            self.level = level if step % 2 == 0 else 1 - level
            self.edges += 1
            if self.isr:
                self.isr(None)
            if step < 2 * bounces:
                self.wait(bounce_ms)

    def pulse(self, low_ms=30, high_ms=30, bounces=0, bounce_ms=1):
        """Close for `low_ms`, open for `high_ms`; bouncing comes on top."""
        self.to(0, bounces, bounce_ms)
        self.wait(low_ms)
        self.to(1, bounces, bounce_ms)
        self.wait(high_ms)


class Counter:
    """A counter in hardware as a board hands it in: from 0, never wrapping."""

    def __init__(self):
        self.count = 0

    def value(self):
        return self.count


class TearingNvs(MemoryNvs):
    """A power cut in the middle of a write leaves the record half old, half new."""

    def set_blob(self, key, value):
        if self._power.left == 0:
            old = self._values.get(key, bytes(len(value)))
            self._values[key] = bytes(value)[: len(value) // 2] + old[len(value) // 2:]
        super().set_blob(key, value)


class FailingNvs(MemoryNvs):
    """Takes nothing while `fails`."""

    def __init__(self):
        super().__init__(Power())
        self.fails = False

    def set_blob(self, key, value):
        if self.fails:
            raise OSError(0x1105)
        super().set_blob(key, value)


class RtcMemory:
    """machine.RTC().memory()."""

    def __init__(self):
        self.data = b""

    def __call__(self, data=None):
        if data is None:
            return self.data
        self.data = bytes(data)
        return None
