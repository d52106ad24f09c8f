"""Reads the meter again and again and keeps what is believed."""

import asyncio

from micropython import const

from evmeter.metering.reading import MeterError, Reading
from evmeter.metering.turn import Turn

_LOST = const(3)  # failed polls after which another meter may answer
_IDENTITY_MS = const(60000)
_YIELD_MS = const(5)
_RETRY_MS = const(20)
_SLOW_EACH = const(10)  # polls


class MeterPoll:
    """The one who reads the meter. `meter` as ModbusMeter (`read_slow` may be missing), `gate` as
    Gate, `clock.mono_ms()`.

    latest        the newest believed Reading with its own time, or None; updated in place between
                  two awaits, so copy what must not change
    quality, reason, status   of the newest poll: "G", or the OCMF fault letter, why, and both
    slow_reason   why the slow set, which is read every 10th time, could not be; or ""
    serial, serial_source     serial number, from the "meter" or from the "label"
    code, firmware            of the meter, or None
    make, model, phases, step_mwh   as in the profile
    bus_idle      `async with poll.bus_idle:` no request is on its way, and none will start
    on_reading    None or called with each believed reading
    on_event      None or called with ("meter_rebase", fields) when the register goes on from
                  elsewhere; fields as Gate.event says, for an exchanged meter with `old_serial`
                  and `serial`.
                  A session open across an event whose `diff_mwh` is None cannot be billed
    alive         None or called at each poll, whatever comes of it
    """

    def __init__(self, meter, gate, clock, period_ms, sleep_ms=None):
        self._meter = meter
        self._gate = gate
        self._clock = clock
        self._period_ms = period_ms
        self._sleep_ms = sleep_ms or asyncio.sleep_ms
        self._turn = Turn(sleep_ms)
        self._scratch = Reading(meter.phases)
        self._edge = Reading(meter.phases)
        self._kept = Reading(meter.phases)
        self._identified = False
        self._identity_due_ms = 0
        self._failures = 0
        self._slow = getattr(meter, "read_slow", None)
        self._slow_in = 0
        self.slow_reason = ""
        self._old_serial = None
        gate.rollover_mwh = meter.rollover_mwh
        self.make = meter.make
        self.model = meter.model
        self.phases = meter.phases
        self.step_mwh = meter.step_mwh
        self.serial = meter.label_serial or ""
        self.serial_source = "label"
        self.code = self.firmware = None
        self.bus_idle = meter.bus.quiet
        self.latest = None
        self.quality = "N"
        self.reason = "not read yet"
        self.status = "N: not read yet"
        self.on_reading = None
        self.on_event = None
        self.alive = None

    async def run(self):
        """Poll for ever; a failure becomes a status and the next poll comes in its time."""
        clock, turn, reading, sleep_ms = self._clock, self._turn, self._scratch, self._sleep_ms
        due_ms = clock.mono_ms()
        while True:
            while turn.taken or turn.waiting:
                await sleep_ms(_YIELD_MS)
            turn.taken = True
            try:
                if self.alive:
                    self.alive()
                if not self._identified or clock.mono_ms() >= self._identity_due_ms:
                    await self._identify()
                await self._meter.read_billing(reading)
                reading.mono_ms = clock.mono_ms()
                self._take(reading)
            except MeterError as error:
                self._fail(error.letter, str(error))
            finally:
                turn.taken = False
            if self._slow_in:
                self._slow_in -= 1
            elif self._slow and self.status == "G":
                await self._read_slow()
            now_ms = clock.mono_ms()
            due_ms = max(due_ms + self._period_ms, now_ms + _YIELD_MS)
            await sleep_ms(due_ms - now_ms)

    async def _read_slow(self):
        """The slow set of what is kept. An edge reading need not wait for it, and it fails no
        poll."""
        self._slow_in = _SLOW_EACH - 1
        kept = self._kept
        kept.slow_ms = None
        try:
            await self._slow(kept)
            kept.slow_ms = self._clock.mono_ms()
            self.slow_reason = ""
        except MeterError as error:
            self.slow_reason = str(error)

    def _take(self, reading):
        if not self._judged(reading):
            return
        self._failures = 0
        self.quality = self.status = "G"
        self.reason = ""
        self._kept.copy_from(reading)
        self.latest = self._kept
        if self.on_reading:
            self.on_reading(self._kept)

    def _judged(self, reading):
        """Whether the gate believes it; tells of what was re-based."""
        if not self._gate.judge(reading):
            self._set(reading.quality, reading.reason)
            return False
        event = self._gate.event
        if event:
            if self._old_serial is not None:
                event["old_serial"] = self._old_serial
                event["serial"] = self.serial
                self._old_serial = None
            if self.on_event:
                self.on_event("meter_rebase", event)
        return True

    def _set(self, letter, reason):
        self.quality = letter
        self.reason = reason
        self.status = letter + ": " + reason

    def _fail(self, letter, reason):
        self._failures += 1
        if self._failures >= _LOST:
            self._identified = False
        self._set(letter, reason)

    async def _identify(self):
        """Who the meter is. Another one than before must agree with itself for a while."""
        meter = self._meter
        serial, code, firmware = await meter.read_identity()
        label = meter.label_serial
        if serial and label and serial.lstrip("0") != label.lstrip("0"):
            raise MeterError("serial number is %s, configured is %s" % (serial, label), "X")
        source = "meter" if serial else "label"
        serial = serial or label or ""
        other_code = code and self.code and code != self.code
        if self.latest and (serial != self.serial or other_code):
            self._old_serial = self.serial
            self._gate.distrust("X", "meter exchanged")
        self.serial = serial
        self.serial_source = source
        self.code = code
        self.firmware = firmware
        self._identified = True
        self._identity_due_ms = self._clock.mono_ms() + _IDENTITY_MS

    async def edge_reading(self, deadline_ms=2000):
        """Read the register for a session's edge: (import in mWh, "G", ms since boot).

        Two replies, each believed by the gate, so that the second is not below the first and not
        further above it than can be drawn; the second counts. Whose register it is, the meter is
        asked before. Goes before the regular poll. No try is begun after `deadline_ms`; then
        (None, OCMF fault letter, ms since boot).
        """
        clock, reading = self._clock, self._edge
        end_ms = clock.mono_ms() + deadline_ms
        agreed = 0
        letter = "T"
        async with self._turn:
            self._identified = False
            while True:
                now_ms = clock.mono_ms()
                if now_ms >= end_ms:
                    return None, letter, now_ms
                try:
                    if not self._identified:
                        await self._identify()
                    await self._meter.read_billing(reading, True)
                    reading.mono_ms = clock.mono_ms()
                    if self._judged(reading):
                        agreed += 1
                        if agreed == 2:
                            return reading.import_mwh, "G", reading.mono_ms
                        continue
                    letter = reading.quality
                except MeterError as error:
                    letter = error.letter
                    self._fail(letter, str(error))
                agreed = 0
                await self._sleep_ms(_RETRY_MS)

    def counters(self):
        """What went wrong since the boot, for the diagnostics message."""
        bus = self._meter.bus
        return {"mb_req": bus.requests, "mb_timeout": bus.timeouts, "mb_damaged": bus.damaged,
                "mb_exc": bus.exceptions, "refused": self._gate.refused}
