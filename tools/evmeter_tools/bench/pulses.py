"""An emulated S0 output (IEC 62053-31): pulses from a load, with what contacts do wrong.

`PulseTrain` is arithmetic only; `PulseOutput` writes its edges where boards/host/host_pulses.py
reads them.
"""

import os
import random
import struct
import time

_MW_MS = 3_600_000_000_000  # in a kWh
_GAP_MS = 30  # the shortest time between two pulses
_GLITCH_MS = (1, 9)
LEAD_MS = 100  # so long before its time an edge is written
_MASK = 0x1FFFFFFF

# What can be set: least and most.
SETTINGS = {
    "low_ms": (1, 1000), "bounces": (0, 5), "bounce_ms": (1, 5), "break_ms": (0, 14),
    "double_every": (0, 1_000_000), "lose_every": (0, 1_000_000), "glitches": (0, 20)}


def check(name, value):
    """Raise ValueError unless `value` is one that the setting `name` can have."""
    if name not in SETTINGS:
        raise ValueError("unknown setting %s; there is: %s" % (name, ", ".join(SETTINGS)))
    least, most = SETTINGS[name]
    if type(value) is not int or not least <= value <= most:
        raise ValueError("%s: a whole number from %d to %d" % (name, least, most))


class PulseTrain:
    """Edges of an output with `imp_per_kwh`, driven by a load.

    low_ms        how long the contact closes
    bounces       how often it falls back at each edge, `bounce_ms` apart
    break_ms      it opens for so long in the middle of each pulse: too short for a pulse more
    double_every  every N-th pulse comes twice; 0: none. lose_every: every N-th does not come
    glitches      so many short pulses, 1 to 9 ms, at each change of the load

    `due`: pulses that the energy is worth. `sent`: those on the line. Times are the caller's, in
    whole ms. Raises ValueError.
    """

    def __init__(self, imp_per_kwh=1000, seed=1, **settings):
        if type(imp_per_kwh) is not int or not 1 <= imp_per_kwh <= 100_000:
            raise ValueError("imp_per_kwh %r: a whole number from 1 to 100000" % (imp_per_kwh,))
        self._imp = imp_per_kwh
        self._random = random.Random(seed)
        self.settings = {"low_ms": 30, "bounces": 0, "bounce_ms": 1, "break_ms": 0,
                         "double_every": 0, "lose_every": 0, "glitches": 0}
        self.set(**settings)
        self._load_mw = 0
        self._since_ms = None
        self._part = 0  # of a pulse, in 1 / _MW_MS
        self._free_ms = 0
        self._edges = []
        self.due = self.sent = 0

    def set(self, **settings):
        """Change settings. Raises ValueError on a wrong one; nothing is changed then."""
        for name, value in settings.items():
            check(name, value)
        self.settings.update(settings)

    def set_load(self, power_w, now_ms):
        """The load from now on, in watts."""
        self._integrate(now_ms)
        if power_w * 1000 != self._load_mw:
            self._load_mw = power_w * 1000
            for _ in range(self.settings["glitches"]):
                low_ms = self._random.randint(*_GLITCH_MS)
                begin_ms = max(self._free_ms, now_ms + LEAD_MS)
                self._edges += [(begin_ms, 0), (begin_ms + low_ms, 1)]
                self._free_ms = begin_ms + low_ms + _GAP_MS

    def edges(self, now_ms):
        """The edges that are new until now, as (ms, level); all lie ahead."""
        self._integrate(now_ms)
        found, self._edges = self._edges, []
        return found

    def _integrate(self, now_ms):
        since_ms = now_ms if self._since_ms is None else self._since_ms
        self._since_ms = now_ms
        rate = self._load_mw * self._imp
        begin = self._part
        self._part += rate * (now_ms - since_ms)
        number = 0
        while self._part >= _MW_MS:
            self._part -= _MW_MS
            number += 1
            at_ms = since_ms - (begin - number * _MW_MS) // rate  # rounded up
            self._pulse(max(at_ms + LEAD_MS, now_ms + LEAD_MS // 2))

    def _pulse(self, begin_ms):
        self.due += 1
        lose, double = self.settings["lose_every"], self.settings["double_every"]
        if lose and self.due % lose == 0:
            return
        for _ in range(2 if double and self.due % double == 0 else 1):
            self._close(max(begin_ms, self._free_ms))
            self.sent += 1

    def _close(self, at_ms):
        low_ms, break_ms = self.settings["low_ms"], self.settings["break_ms"]
        at_ms = self._move(at_ms, 0) + low_ms
        if break_ms:
            self._edges += [(at_ms, 1), (at_ms + break_ms, 0)]
            at_ms += break_ms + low_ms
        self._free_ms = self._move(at_ms, 1) + _GAP_MS

    def _move(self, at_ms, level):
        """Go to `level`, falling back now and then; returns when it stays."""
        bounce_ms = self.settings["bounce_ms"]
        for step in range(2 * self.settings["bounces"] + 1):
            self._edges.append((at_ms + step * bounce_ms, level ^ (step & 1)))
        return self._edges[-1][0]


class PulseOutput:
    """Appends the edges of `train` to the file `path`; call `tick` every 20 ms or so."""

    def __init__(self, path, train):
        self.train = train
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @staticmethod
    def _now_ms():
        return time.monotonic_ns() // 1_000_000

    def set_load(self, power_w):
        """The load from now on, in watts."""
        self.train.set_load(power_w, self._now_ms())

    def tick(self):
        """Write what is new."""
        edges = self.train.edges(self._now_ms())
        if edges:
            words = [(at_ms & _MASK) << 1 | level for at_ms, level in edges]
            os.write(self._file, struct.pack("<%dI" % len(words), *words))

    def close(self):
        """The contact stays as it is from now on: open."""
        os.close(self._file)
