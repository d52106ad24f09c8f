"""A meter that is read by its S0 pulse output (IEC 62053-31): a contact closes for at least 30 ms,
opens for at least 30 ms, and settles within 5 ms.

A pulse counts once LOW (closed) has lasted `min_ms` after HIGH has lasted as long. A counter in
hardware cannot do that (the ESP32's filter ends at 12.8 us): it needs an RC of 1 to 5 ms before
it. Edges by interrupt need none, but on the ESP32 the handler runs only between two bytecodes:
pulses that lie whole in a longer stall (a flash erase) are lost.
"""

import asyncio
import binascii
import struct
import time
from array import array

from micropython import const

from evmeter.metering.turn import Turn

_MWH_PER_KWH = const(1000000)
_MWMS_PER_KWH = const(3600000000000)  # mW times ms
_RING = const(64)  # a power of two
_MIN_MS = const(15)
_STEP_MS = const(200)  # the ring has room for 300 edges a second
_SPAN_EDGES_MS = const(1000)  # power is a mean over at least so long
_SPAN_COUNTER_MS = const(5000)  # a counter does not tell when its pulses came
_IDLE_MS = const(60000)
_COMMIT_PULSES = const(20)
_COMMIT_MS = const(10000)  # commits closer than this would wear the flash out within ten years
_MOST_IMP = const(100000)
_BODY = "<IQIB"  # number, count, imp/kWh, stopped in an orderly way
_BODY_BYTES = const(17)


class EdgeQualifier:
    """Tells pulses from bounce by how long a level has lasted. Starts with HIGH not yet seen, so
    that a pulse during which the device starts does not count twice.

    `at_ms`: ticks at which the newest pulse began. `rejected`: levels that were too short.
    """

    def __init__(self, level, ticks_ms, min_ms=_MIN_MS, ticks=time):
        self._diff = ticks.ticks_diff
        self._min_ms = min_ms
        self.rejected = 0
        self.at_ms = ticks_ms
        self.restart(level, ticks_ms)

    def restart(self, level, ticks_ms):
        """Begin anew where edges were missed: nothing before this counts."""
        self._armed = self._settled = False
        self._level = level
        self._since_ms = ticks_ms

    def edge(self, level, ticks_ms):
        """The line went to `level`, 0 or 1; returns whether a pulse counts. Twice the same level
        means that an edge between was too short to be seen."""
        counts = self.settle(ticks_ms)
        if not self._settled:
            self.rejected += 1
        self._settled = False
        self._level = level
        self._since_ms = ticks_ms
        return counts

    def settle(self, ticks_ms):
        """No edge until `ticks_ms`; returns whether a pulse counts. To be called at least once in
        6 days, for the ticks wrap."""
        if self._settled or self._diff(ticks_ms, self._since_ms) < self._min_ms:
            return False
        self._settled = True
        counts = self._armed and not self._level
        self._armed = bool(self._level)
        if counts:
            self.at_ms = self._since_ms
        return counts


class EdgeRing:
    """Keeps the edges of a pin until they are looked at. `pin()` gives the level; the board sets
    `isr` as the pin's interrupt handler for both edges. It allocates nothing.

    `lost` counts edges for which there was no room.
    """

    def __init__(self, pin, ticks=time):
        self.level = pin
        self._ticks_ms = ticks.ticks_ms
        self._edges = array("i", [0] * _RING)
        self._head = self._tail = 0
        self.lost = 0

    def isr(self, _pin):
        """Note an edge: its ticks, inverted for LOW."""
        head = self._head
        after = (head + 1) & (_RING - 1)
        if after == self._tail:
            self.lost += 1
            return
        now_ms = self._ticks_ms()
        self._edges[head] = now_ms if self.level() else ~now_ms
        self._head = after

    def take(self):
        """The oldest edge, or None."""
        tail = self._tail
        if tail == self._head:
            return None
        edge = self._edges[tail]
        self._tail = (tail + 1) & (_RING - 1)
        return edge


def deviation(pulse_mwh, register_mwh, step_mwh):
    """How many whole steps the increment by pulses is above the one of a Modbus register over the
    same time; negative: below. `step_mwh` is the coarser of the two steps; up to one step either
    way is no fault."""
    steps = abs(pulse_mwh - register_mwh) // step_mwh
    return steps if pulse_mwh >= register_mwh else -steps


def _unpack(body):
    """[number, count, imp/kWh, orderly] of a record, or None where it is damaged."""
    if len(body) != _BODY_BYTES + 4:
        return None
    (crc,) = struct.unpack_from("<I", body, _BODY_BYTES)
    if binascii.crc32(body[:_BODY_BYTES]) & 0xFFFFFFFF != crc:
        return None
    return list(struct.unpack_from(_BODY, body))


class PulseMeter:
    """Has ModbusMeter's face to MeterPoll. `edges` is an EdgeRing, or a counter with `value()`
    that counts from the board's start and never wraps.

    `store` has esp32.NVS's face: the count lies there in two records that are written in turn,
    every `commit_pulses` but not more often than every 10 s, after 60 s without a pulse, and at
    every reading for a session's edge. `rtc` is None, or has the face of machine.RTC().memory()
    over a part of it that is this meter's alone.

    `count`     pulses, exact: the register is count * 1,000,000 mWh // imp_per_kwh
    `step_mwh`  one pulse; where that is no whole number, the power of ten above it
    `gap`       "", or why pulses may be missing: since the boot, or because edges came too fast.
                Each reading has it as its reason. The owner sets it to "" once it was dealt with
    `requests`, `damaged`, `exceptions`: readings, levels too short, failed commits and lost edges

    Raises ValueError for an `imp_per_kwh` outside 1 to 100,000.
    """

    phases = 0
    rollover_mwh = timeouts = exceptions = requests = 0

    def __init__(self, edges, store, imp_per_kwh, clock, serial=None, make="S0", model=None,
                 min_ms=_MIN_MS, commit_pulses=_COMMIT_PULSES, rtc=None, ticks=time,
                 sleep_ms=None):
        if not 1 <= imp_per_kwh <= _MOST_IMP:
            raise ValueError("imp_per_kwh is %s; allowed: 1 to %d" % (imp_per_kwh, _MOST_IMP))
        self._edges = edges
        self._store = store
        self._imp = imp_per_kwh
        self._clock = clock
        self._rtc = rtc
        self._ticks = ticks
        self._sleep_ms = sleep_ms or asyncio.sleep_ms
        self._commit_pulses = commit_pulses
        self.bus = self
        self.quiet = Turn(sleep_ms)
        self.make = make
        self.model = model or "%d imp/kWh" % imp_per_kwh
        self.label_serial = serial
        self.step_mwh = _MWH_PER_KWH // imp_per_kwh
        if _MWH_PER_KWH % imp_per_kwh:
            step_mwh = self.step_mwh
            self.step_mwh = 1
            while self.step_mwh <= step_mwh:
                self.step_mwh *= 10
        self._qualifier = None
        self._span_ms = _SPAN_COUNTER_MS
        self.confidence = "high"
        self._seen = 0  # of the counter; lost edges of the ring
        if not hasattr(edges, "value"):
            self.confidence = "medium"
            self._span_ms = _SPAN_EDGES_MS
            self._qualifier = EdgeQualifier(edges.level(), ticks.ticks_ms(), min_ms, ticks)
        self._last_ms = self._committed_ms = clock.mono_ms()  # of the newest pulse; of a commit
        self._from_ms = None  # where the pulses began over which power is taken
        self._fresh = 0  # pulses since
        self._interval_ms = 0
        self._power_mw = None
        self._load()

    def _load(self):
        number = count = orderly = 0
        stored = -1
        self.gap = ""
        buffer = bytearray(_BODY_BYTES + 4)
        for key in ("pulse0", "pulse1"):
            try:
                found = _unpack(buffer[:self._store.get_blob(key, buffer)])
            except OSError:
                continue  # never written
            if found is None:
                self.gap = "pulse gap: damaged record"
            elif found[0] > number:
                number, count, imp, orderly = found
                stored = count = count * self._imp // imp
        if number and not orderly:
            self.gap = "pulse gap: power was off"
        found = _unpack(bytes(self._rtc())) if self._rtc else None
        if found and found[2] == self._imp and found[1] >= count:
            count = found[1]
            if self.gap:
                self.gap = "pulse gap: restart"
        self._number = number
        self.count = self._kept = count
        self._stored = -1 if orderly else stored  # from here on a stop is not orderly
        self.commit()

    def at_least(self, register_mwh):
        """The register cannot be below what durable records say: pulses that were told, but not
        committed before a power cut, are counted again here. To be called before the first
        reading."""
        count = (register_mwh - self.step_mwh // 2) * self._imp
        self.count = max(self.count, (count + _MWH_PER_KWH - 1) // _MWH_PER_KWH)
        self.commit()

    def _record(self, orderly):
        body = struct.pack(_BODY, self._number + 1, self.count, self._imp, orderly)
        return body + struct.pack("<I", binascii.crc32(body) & 0xFFFFFFFF)

    def commit(self, orderly=False):
        """Make the count durable. `orderly`: counting ends now, and nothing runs through the
        meter until it starts again. A failure is counted; the next commit tries again."""
        self._committed_ms = self._clock.mono_ms()
        if self.count == self._stored and not orderly:
            return
        try:
            # The record before this one stays whole until this one is there.
            self._store.set_blob("pulse%d" % (self._number & 1), self._record(orderly))
            self._store.commit()
        except OSError:
            self.exceptions += 1
            return
        self._number += 1
        self._stored = self.count

    def step(self):
        """Count what has come; to be called several times a second, as `run` does."""
        edges, qualifier = self._edges, self._qualifier
        if qualifier:
            ticks_ms = self._ticks.ticks_ms()  # before the edges, for one may come in between
            now_ms = self._clock.mono_ms()
            edge = edges.take()
            while edge is not None:
                level = 1 if edge >= 0 else 0
                if qualifier.edge(level, edge if level else ~edge):
                    self._pulse(now_ms, ticks_ms)
                edge = edges.take()
            if qualifier.settle(ticks_ms):
                self._pulse(now_ms, ticks_ms)
            if edges.lost != self._seen:
                self.exceptions += edges.lost - self._seen
                self._seen = edges.lost
                self.gap = "pulse gap: too many edges"
                qualifier.restart(edges.level(), ticks_ms)
        else:
            seen = edges.value()
            now_ms = self._clock.mono_ms()
            if seen > self._seen:
                self._add(seen - self._seen, now_ms)
            self._seen = seen
        if self._rtc and self.count != self._kept:
            self._kept = self.count
            self._rtc(self._record(False))
        pulses = self.count - self._stored
        if pulses and now_ms - self._committed_ms >= _COMMIT_MS and (
                pulses >= self._commit_pulses or now_ms - self._last_ms >= _IDLE_MS):
            self.commit()

    def _pulse(self, now_ms, ticks_ms):
        self._add(1, now_ms - self._ticks.ticks_diff(ticks_ms, self._qualifier.at_ms))

    def _add(self, pulses, at_ms):
        """Count pulses of which the newest came at `at_ms`."""
        self.count += pulses
        self._last_ms = at_ms
        if self._from_ms is None:
            self._from_ms = at_ms
            return
        self._fresh += pulses
        passed_ms = at_ms - self._from_ms
        if passed_ms >= self._span_ms:
            self._power_mw = _MWMS_PER_KWH * self._fresh // (self._imp * passed_ms)
            self._interval_ms = passed_ms // self._fresh
            self._from_ms = at_ms
            self._fresh = 0

    def power_mw(self):
        """Mean power between the newest pulses, not above what the wait for the next one allows;
        0 after 60 s and three intervals without one; None before two pulses came."""
        waited_ms = self._clock.mono_ms() - self._last_ms
        if waited_ms > max(_IDLE_MS, 3 * self._interval_ms):
            return 0
        if self._power_mw is None or waited_ms <= 0:
            return self._power_mw
        return min(self._power_mw, _MWMS_PER_KWH // (self._imp * waited_ms))

    async def run(self):
        """Count for ever."""
        while True:
            self.step()
            await self._sleep_ms(_STEP_MS)

    async def read_billing(self, reading, energy_only=False):
        """Fill `reading` in place. `energy_only`, for a session's edge, commits the count."""
        self.requests += 1
        self.step()
        if energy_only:
            self.commit()
        if self._qualifier:
            self.damaged = self._qualifier.rejected
        reading.quality = "G"
        reading.reason = self.gap
        reading.import_mwh = self.count * _MWH_PER_KWH // self._imp
        reading.power_mw = self.power_mw()

    async def read_identity(self):
        """A pulse output says nothing of the meter."""
        return None, None, None
