"""A meter that is read by its S0 pulse output (IEC 62053-31): a contact closes for at least 30 ms,
opens for at least 30 ms, and settles within 5 ms.

By interrupt, a pulse counts once LOW (closed) has lasted 15 ms after HIGH has lasted as long. On
the ESP32 the handler runs between two bytecodes only: a pulse that lies whole in a longer stall (a
flash erase) is lost. A counter in hardware loses none, but cannot tell bounce (its filter ends at
12.8 us): it needs an RC of 1 to 5 ms before it.
"""

import asyncio
import binascii
import struct
import time
from array import array

from micropython import const

from evmeter.metering.turn import Turn

_MWH = const(1000000)  # in a kWh
_MW_MS = const(3600000000000)  # likewise, mW times ms
_RING = const(64)  # a power of two
_MIN_MS = const(15)
_STEP_MS = const(200)  # the ring has room for 300 edges a second
_SPAN_MS = const(1000)  # power is a mean over at least so long,
_SPAN_COUNTER_MS = const(5000)  # of a counter, which does not tell when its pulses came
_IDLE_MS = const(60000)
_COMMIT_PULSES = const(20)
_COMMIT_MS = const(10000)  # closer commits could wear the second store out within ten years
_MOST_IMP = const(100000)
_BODY = "<IQI"  # number, count, imp/kWh; a CRC32 follows
_BODY_BYTES = const(16)


class EdgeQualifier:
    """Tells pulses from bounce by how long a level lasts: `min_ms` of LOW after as much HIGH.

    `pulses`: how many there were. `began_ms`: ticks at which the newest began. `rejected`: levels
    that were too short. A pulse that has begun before the first edge does not count.
    """

    def __init__(self, level, ticks_ms, min_ms=_MIN_MS, ticks=time):
        self._diff = ticks.ticks_diff
        self._min_ms = min_ms
        self.pulses = self.rejected = 0
        self.began_ms = ticks_ms
        self.restart(level, ticks_ms)

    def restart(self, level, ticks_ms):
        """Edges were missed: a pulse needs a long HIGH and LOW from here on."""
        self._armed = self._settled = False
        self._level = level
        self._since_ms = ticks_ms

    def edge(self, level, ticks_ms):
        """The line went to `level`, 0 or 1. Twice the same: an edge between was not seen."""
        self.settle(ticks_ms)
        if not self._settled:
            self.rejected += 1
        self._settled = False
        self._level = level
        self._since_ms = ticks_ms

    def settle(self, ticks_ms):
        """There was no edge until `ticks_ms`. Ticks wrap: call it at least once in 6 days."""
        if not self._settled and self._diff(ticks_ms, self._since_ms) >= self._min_ms:
            self._settled = True
            if self._armed and not self._level:
                self.pulses += 1
                self.began_ms = self._since_ms
            self._armed = self._level


class EdgeRing(EdgeQualifier):
    """Counts the pulses of a pin. `pin()` gives the level, `isr` is to be its interrupt handler
    for both edges; it only stores, and allocates nothing. `missed`: some found no
    room (they count as `rejected`); whoever acts on it sets it to False."""

    def __init__(self, pin, min_ms=_MIN_MS, ticks=time):
        self._pin = pin
        self._ticks_ms = ticks.ticks_ms
        self._edges = array("i", [0] * _RING)
        self._head = self._tail = self._lost = 0
        self.missed = False
        super().__init__(pin(), ticks.ticks_ms(), min_ms, ticks)

    def isr(self, _pin):
        """Note an edge: its ticks, inverted for LOW."""
        head = self._head
        after = (head + 1) & (_RING - 1)
        if after == self._tail:
            self._lost += 1
        else:
            now_ms = self._ticks_ms()
            self._edges[head] = now_ms if self._pin() else ~now_ms
            self._head = after

    def value(self):
        """Pulses until now."""
        now_ms = self._ticks_ms()  # first: an edge may come in between
        tail = self._tail
        while tail != self._head:
            edge = self._edges[tail]
            if edge < 0:
                self.edge(0, ~edge)
            else:
                self.edge(1, edge)
            # now only: an edge that was not taken, for lack of memory, is there the next time
            tail = self._tail = (tail + 1) & (_RING - 1)
        if self._lost:
            self.rejected += self._lost
            self._lost = 0
            self.missed = True
            self.restart(self._pin(), now_ms)
        else:
            self.settle(now_ms)
        return self.pulses

    def age_ms(self):
        """How long ago the newest pulse began."""
        return self._diff(self._ticks_ms(), self.began_ms)


def _sealed(body):
    return body + struct.pack("<I", binascii.crc32(body) & 0xFFFFFFFF)


class PulseMeter:
    """Has ModbusMeter's face to MeterPoll. `edges` is an EdgeRing, or a counter with `value()`
    that goes on from 0 at the boot and never wraps.

    `store` has esp32.NVS's face: the count lies in two records, written in turn every
    `commit_pulses` but not more often than every 10 s, after 60 s without a pulse, and with each
    reading for a session's edge. `rtc`: None, or machine.RTC().memory()'s face over a part that is
    this meter's alone; where it survived, the boot was clean and cost the pulses of its own
    seconds only.

    count       pulses; the register is count * 1,000,000 mWh // imp_per_kwh
    step_mwh    one pulse; where that is no whole number, the power of ten above it
    gap         "", or why pulses may be missing; each reading's reason. The owner clears it
    confidence  "high" with a counter, "medium" by interrupt
    requests, damaged, exceptions   readings, levels too short, failed commits

    Raises ValueError for an `imp_per_kwh` outside 1 to 100,000.
    """

    make = "S0"
    phases = rollover_mwh = requests = timeouts = damaged = exceptions = count = 0
    gap = note = ""
    _number = _fresh = _interval_ms = 0
    _power_mw = None
    _from_ms = None  # where the pulses begin over which power is taken
    _stored = -1

    def __init__(self, edges, store, imp_per_kwh, clock, serial=None, rtc=None,
                 commit_pulses=_COMMIT_PULSES):
        if not 1 <= imp_per_kwh <= _MOST_IMP:
            raise ValueError("imp_per_kwh is %s; allowed: 1 to 100000" % imp_per_kwh)
        self._edges = edges
        self._store = store
        self._imp = imp_per_kwh
        self._mono_ms = clock.mono_ms
        self._rtc = rtc
        self._commit_pulses = commit_pulses
        self._timed = hasattr(edges, "age_ms")
        self.confidence = "medium" if self._timed else "high"
        self.bus = self
        self.quiet = Turn()
        self.model = "%d imp/kWh" % imp_per_kwh
        self.label_serial = serial
        self.step_mwh = step_mwh = _MWH // imp_per_kwh
        if _MWH % imp_per_kwh:
            self.step_mwh = 1
            while self.step_mwh <= step_mwh:
                self.step_mwh *= 10
        self._seen = edges.value()
        self._last_ms = clock.mono_ms()  # of the newest pulse
        self._load()

    def _take(self, body):
        """Take the record if it is newer; returns whether it is whole."""
        if len(body) != _BODY_BYTES + 4 or _sealed(body[:_BODY_BYTES]) != body:
            return False
        number, count, imp = struct.unpack(_BODY, body[:_BODY_BYTES])
        if number >= self._number:
            self._number = number
            self.count = count * self._imp // imp  # the energy goes on
        return True

    def _load(self):
        for key in ("pulse0", "pulse1"):
            body = bytearray(_BODY_BYTES + 4)
            try:
                self._store.get_blob(key, body)
            except OSError:
                continue  # not written yet
            self._take(bytes(body))
            self.gap = "pulse gap"
        if self._number:
            self._stored = self.count
        if self._rtc and self._take(bytes(self._rtc())):
            self.gap = ""
        self.commit()

    def at_least(self, register_mwh):
        """The register was at `register_mwh`, says a durable record: pulses that were told but not
        committed count again. For the time before the first reading."""
        count = (register_mwh - self.step_mwh // 2) * self._imp + _MWH - 1
        self.count = max(self.count, count // _MWH)
        self.commit()

    def _record(self, number):
        return _sealed(struct.pack(_BODY, number, self.count, self._imp))

    def commit(self):
        """Make the count durable. A failure is counted, and tried again by the next commit."""
        self._committed_ms = self._mono_ms()
        if self.count != self._stored:
            try:
                # The record of the time before stays whole until this one is there.
                self._store.set_blob("pulse%d" % (self._number & 1),
                                     self._record(self._number + 1))
                self._store.commit()
                self._number += 1
                self._stored = self.count
            except OSError:
                self.exceptions += 1

    def step(self):
        """Count what has come; to be called several times a second, as `run` does."""
        edges = self._edges
        pulses = edges.value() - self._seen
        now_ms = self._mono_ms()
        if pulses:
            self._add(pulses, now_ms - (edges.age_ms() if self._timed else 0))
        if self._timed:
            self.damaged = edges.rejected
            if edges.missed:
                edges.missed = False
                self.gap = "pulse gap"
        pulses = self.count - self._stored
        if pulses and now_ms - self._committed_ms >= _COMMIT_MS and (
                pulses >= self._commit_pulses or now_ms - self._last_ms >= _IDLE_MS):
            self.commit()

    def _add(self, pulses, at_ms):
        """Count pulses of which the newest came at `at_ms`."""
        # nothing that may fail in between: what is seen is counted
        self._seen, self.count = self._seen + pulses, self.count + pulses
        self._last_ms = at_ms
        if self._rtc:
            self._rtc(self._record(self._number))
        if self._from_ms is None:
            self._from_ms = at_ms
            return
        self._fresh += pulses
        passed_ms = at_ms - self._from_ms
        if passed_ms >= (_SPAN_MS if self._timed else _SPAN_COUNTER_MS):
            self._power_mw = _MW_MS * self._fresh // (self._imp * passed_ms)
            self._interval_ms = passed_ms // self._fresh
            self._from_ms = at_ms
            self._fresh = 0

    def power_mw(self):
        """Mean power between the newest pulses, not above what the wait for the next one allows;
        0 after 60 s and three intervals without one; None before it can be known."""
        waited_ms = self._mono_ms() - self._last_ms
        if waited_ms > max(_IDLE_MS, 3 * self._interval_ms):
            return 0
        if self._power_mw is None or waited_ms <= 0:
            return self._power_mw
        return min(self._power_mw, _MW_MS // (self._imp * waited_ms))

    async def run(self):
        """Count for ever."""
        while True:
            self.step()
            await asyncio.sleep_ms(_STEP_MS)

    async def read_billing(self, reading, energy_only=False):
        """Fill `reading` in place. `energy_only`, for a session's edge, commits the count."""
        self.requests += 1
        self.step()
        if energy_only:
            self.commit()
        reading.quality = "G"
        reading.reason = self.gap
        reading.import_mwh = self.count * _MWH // self._imp
        reading.power_mw = self.power_mw()

    async def read_identity(self):
        """A pulse output says nothing of its meter."""
        return None, None, None
