"""A charger on virtual time: mains, meter, flash and clock that outlive the device, and the truth.

The device's own modules run unchanged: clock, gate, poll, journal, ledger, session, intervals.
Time passes only where `World.pass_ms` says so, finely after something happened, else coarsely.
"""

import json
import sys

from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ledger import Ledger, account, newest_unix_ms
from evmeter.ledger.ocmf import OcmfError, quantise
from evmeter.ledger.segments import StoreError
from evmeter.metering.gate import Gate
from evmeter.metering.intervals import Intervals
from evmeter.metering.poll import MeterPoll
from evmeter.metering.reading import MeterError
from evmeter.monitoring.alarms import Alarms
from evmeter.session import recovery
from evmeter.session.keeper import SessionKeeper
from evmeter.system.clock import Clock
from evmeter_tools.faults import fakes
from evmeter_tools.faults.line import Time

fakes.reach()

from fakes.memory_store import MemoryNvs, MemoryStore, Power, PowerCut  # noqa: E402

A = (12000, 12000, False)
B = (9000, -12000, True)
C = (6000, -12000, True)
D = (3000, -12000, True)
E = (0, 0, False)
F = (-12000, -12000, False)
B1 = (9000, 9000, False)
C1 = (6000, 6000, False)

STEP_MWH = 1000
P_MAX_W = 11000
START_UNIX_MS = 1_790_056_800_000  # 2026-09-22 06:00 UTC
_FLOOR_UNIX_MS = START_UNIX_MS - 10**9  # when the firmware was built
_FINE_MS = 50
_FINE_FOR_MS = 2000
_SIGN_MS = 300
_REPLY_MS = 20
_RESTART_MS = 500
_CURSOR_MS = 10000
_MOST_BOOTS = 50
_SERVED = 5000

TARIFF = {"currency": "EUR", "zone": "UTC0", "windows": [
    {"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 4000},
    {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2000}]}


class Store(MemoryStore):
    """A MemoryStore, whose operations happen whole or not at all; `wrong` tells what no ledger may
    do to it."""

    def __init__(self, power, capacity, segment_bytes=4096):
        super().__init__(power, capacity, segment_bytes)
        self.wrong = []

    def set_aside(self, first):
        """As SegmentStore; nothing is ever torn here."""
        self.wrong.append("segment %d set aside" % first)
        super().set_aside(first)

    def append(self, seq, frame, length):
        """As SegmentStore."""
        if seq in self.data:
            self.wrong.append("number %d was given out again" % seq)
        super().append(seq, frame, length)

    def write_small(self, name, body):
        """As SegmentStore, which takes at most 100 bytes with its checksum."""
        if len(body) + 4 > 100:
            raise StoreError("%s: %d bytes" % (name, len(body)))
        super().write_small(name, body)


class Board:
    """What outlives a reboot: both stores and, without a power loss, the RTC memory."""

    def __init__(self, capacity):
        self.power = Power()
        self.store = Store(self.power, capacity)
        self.nvs = MemoryNvs(self.power)
        self.reset_cause = "power-on"
        self.permitted = True
        self._ram = b""

    def permit(self, on):
        """The output to the charge controller."""
        self.permitted = on

    def rtc_memory(self, data=None):
        """As a board's."""
        if data is None:
            return self._ram
        self._ram = bytes(data)
        return None

    def reset(self, cause):
        """The device starts again because of `cause`."""
        self.reset_cause = cause
        if cause == "power-on":
            self._ram = b""


class _Quiet:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return False


class _Bus:
    requests = timeouts = damaged = exceptions = 0

    def __init__(self):
        self.quiet = _Quiet()


class Meter:
    """The meter as its driver shows it. Its register shows multiples of its step of what went
    through since its epoch began; a new epoch is another register: reset, or exchanged.

    fault     "": none; "silent"; "refused": replies that the gate must not believe
    served    register value -> epochs in which a true reply had it
    epochs    list of (offset, serial): register shown = energy gone through + offset
    """

    phases = 1
    rollover_mwh = 0
    make = "Eastron"
    model = "SDM120"
    step_mwh = STEP_MWH
    label_serial = None

    def __init__(self, time, register_mwh):
        self._time = time
        self.bus = _Bus()
        self.fault = ""
        self.power_w = 0
        self._gone_w_ms = 0
        self._at_ms = self._now_ms()
        self.serial = "21034567"
        self.epochs = [(register_mwh, self.serial)]
        self.served = {}
        self.told_mwh = 0  # the newest that was true
        self._count = 0
        self.known = bool  # whether the device has believed a register in this life

    def _now_ms(self):
        return self._time.now_us // 1000

    def gone_mwh(self):
        """Energy that went through since the beginning."""
        now_ms = self._now_ms()
        self._gone_w_ms += self.power_w * (now_ms - self._at_ms)
        self._at_ms = now_ms
        return self._gone_w_ms // 3600

    def load(self, power_w):
        """So much is drawn from now on."""
        self.gone_mwh()
        self.power_w = power_w

    def register_mwh(self):
        """What the display shows."""
        return (self.gone_mwh() + self.epochs[-1][0]) // STEP_MWH * STEP_MWH

    def begin_epoch(self, register_mwh, serial=None):
        """The register goes on from elsewhere; with `serial` it is another meter."""
        self.serial = serial or self.serial
        self.epochs.append((register_mwh - self.gone_mwh(), self.serial))

    def forget(self):
        """Keep only the newest of what was served."""
        if len(self.served) > 2 * _SERVED:
            for mwh in list(self.served)[:-_SERVED]:
                del self.served[mwh]

    async def read_identity(self):
        """As ModbusMeter."""
        await self._time.sleep_ms(_REPLY_MS)
        if self.fault == "silent":
            raise MeterError("no reply", "T")
        return self.serial, None, None

    async def read_billing(self, reading, _edge=False):
        """As ModbusMeter."""
        await self._time.sleep_ms(_REPLY_MS)
        if self.fault == "silent":
            raise MeterError("no reply", "T")
        mwh = self.register_mwh()
        reading.quality = "G"
        reading.reason = ""
        reading.voltages_mv[0] = 230000
        reading.frequency_mhz = 50000
        reading.power_mw = self.power_w * 1000
        reading.export_mwh = 0
        if self.fault == "refused":
            self._count += 1
            if self._count % 2 and self.known():
                mwh += 7 * 10**9 * self._count  # no two of them agree
            else:
                reading.voltages_mv[0] = -1
        else:
            self.told_mwh = mwh
            epochs = self.served.pop(mwh, None) or set()
            epochs.add(len(self.epochs) - 1)
            self.served[mwh] = epochs  # the newest last
        reading.import_mwh = mwh


class _Lock:
    """asyncio.Lock without an event loop."""

    def __init__(self, sleep_ms):
        self._sleep_ms = sleep_ms
        self.taken = False

    async def acquire(self):
        while self.taken:
            await self._sleep_ms(1)
        self.taken = True

    def release(self):
        self.taken = False


class _Signer:
    key_id = "a1b2c3d4"

    def __init__(self, sleep_ms):
        self._sleep_ms = sleep_ms

    async def sign(self, _digest):
        await self._sleep_ms(_SIGN_MS)
        return b"\x30\x06\x02\x01\x01\x02\x01\x01"


class Parts:
    """The designs that a device is built of; a control replaces one by a wrong one."""

    def __init__(self, **others):
        self.keeper = SessionKeeper
        self.journal = Journal
        self.ledger = Ledger
        self.gate = Gate
        self.intervals = Intervals
        self.account = account
        for name, design in others.items():
            setattr(self, name, design)


class Device:
    """One life of a device, wired as app.py does it."""

    def __init__(self, world):
        self.world = world
        parts, board, time = world.parts, world.board, world.time
        # the keeper drops it after each boot; to compile it again would cost more than a boot
        sys.modules["evmeter.session"].recovery = recovery
        sys.modules["evmeter.session.recovery"] = recovery
        self.clock = Clock(_FLOOR_UNIX_MS, time)
        self.journal = parts.journal(board.store, board.nvs, parts.account)
        self.journal.open()
        self.faults = list(self.journal.faults)
        self.first_seq = self.journal.next_seq
        self.clock.raise_floor(newest_unix_ms(self.journal), newest_unix_ms(self.journal, "S"))
        gate = parts.gate(P_MAX_W, STEP_MWH)
        self.poll = MeterPoll(world.meter, gate, self.clock, world.poll_ms, time.sleep_ms)
        self.ledger = parts.ledger(self.journal, _Signer(time.sleep_ms), self.clock,
                                   self.poll.bus_idle, self._identity)
        self.ledger._lock = _Lock(time.sleep_ms)
        config = {"id": "demo-0001", "meter": {"p_max_w": P_MAX_W},
                  "session": {"finished_after_s": 5, "checkpoint_s": 60}, "tariff": world.tariff}
        self.keeper = parts.keeper(config, self.clock, self.poll, self.ledger, self.journal,
                                   Alarms(self.clock), board)
        self.keeper.sleep_ms = world.rest_ms
        gate.base(recovery.base_mwh(self.keeper))
        self.intervals = parts.intervals(self.journal.interval_mwh)
        world.meter.known = lambda: self.poll.latest is not None
        self.poll.on_reading = self._on_reading
        self.poll.on_event = self._on_event
        self.died = []  # of what the tasks died
        self._cursor_ms = 0
        self._epochs = 0  # of the meter, at the newest believed reading
        time.spawn(self._keep(self.poll.run))
        time.spawn(self._keep(self.keeper.run))
        time.spawn(self._keep(self._write_intervals))

    def _identity(self):
        return {"MS": self.poll.serial}, STEP_MWH, self.poll.serial_source

    def _on_reading(self, reading):
        clock = self.clock
        self._epochs = len(self.world.meter.epochs)
        self.keeper.reading(reading)
        self.intervals.reading(
            quantise(reading.import_mwh, STEP_MWH), reading.power_mw, reading.mono_ms,
            clock.unix_ms_at(reading.mono_ms) // 1000, clock.quality != "U")

    def _on_event(self, name, fields):
        meter = self.world.meter
        if fields["old_mwh"] != fields["new_mwh"] and self._epochs == len(meter.epochs):
            self.world.wrong.append("a jump inside of one register: %s" % fields)
        self.intervals.rebase(self.keeper.meter_event(name, fields))

    async def _write_intervals(self):
        while True:
            await self.world.rest_ms(1000)
            if self.intervals.closed:
                await self.ledger.interval(self.intervals.closed)
                self.intervals.written()
            if self.clock.notes and self.keeper.booted:
                await self.clock.write_notes(self.ledger, self.keeper.sid, 1, self.first_seq)
            if self.clock.mono_ms() - self._cursor_ms >= _CURSOR_MS:
                self._cursor_ms = self.clock.mono_ms()
                await self.ledger.save_cursor()

    async def _keep(self, function):
        """The supervisor."""
        while True:
            try:
                await function()
            except (JournalError, OcmfError, TypeError, ValueError, KeyError, IndexError,
                    AttributeError, NameError) as error:
                self.died.append("%s: %s" % (type(error).__name__, error))
                if not isinstance(error, JournalError):
                    self.world.wrong.append("a task died: %s" % self.died[-1])
            await self.world.time.sleep_ms(_RESTART_MS)

    def window(self):
        """One pilot window, and what is done once a second."""
        self.keeper.window(*self.world.pilot)
        self.keeper.follow()


class World:
    """The charger's surroundings. `poll_ms` and `coarse_ms`: how often the meter is read, and how
    often the rest happens when nothing changes; `capacity` of the journal in segments. `lives`:
    what one life of the device is made of."""

    lives = Device

    def __init__(self, parts=None, poll_ms=5000, coarse_ms=5000, capacity=40, tariff=TARIFF,
                 register_mwh=123_456_000):
        self.parts = parts or Parts()
        self.poll_ms = poll_ms
        self.tariff = tariff
        self._coarse_ms = coarse_ms
        self.time = Time()
        self._begun_ms = self.time.now_us // 1000
        self.board = Board(capacity)
        self.meter = Meter(self.time, register_mwh)
        self.pilot = A
        self.device = None
        self.clock_error_ms = 0
        self.lies = 0  # how often a clock was set wrongly
        self.off_ms = 0  # true length of the last off-time
        self.wrong = []
        self._fine_until_us = self._end_us = 0

    def true_ms(self):
        """Unix time as it is."""
        return START_UNIX_MS + self.time.now_us // 1000 - self._begun_ms

    # -- time --

    def busy(self):
        """Look closely for a while."""
        self._fine_until_us = self.time.now_us + _FINE_FOR_MS * 1000

    async def rest_ms(self, ms):
        """A task's pause; longer while nothing happens."""
        now_us = self.time.now_us
        if now_us >= self._fine_until_us:
            ms = max(ms, min(self._coarse_ms, (self._end_us - now_us) // 1000))
        await self.time.sleep_ms(ms)

    def pass_ms(self, ms):
        """Let time pass. Returns False where the power went."""
        self._end_us = end_us = self.time.now_us + ms * 1000
        while self.time.now_us < end_us:
            fine = self.time.now_us < self._fine_until_us
            step_ms = _FINE_MS if fine else self._coarse_ms
            until_us = min(end_us, self.time.now_us + step_ms * 1000)
            if not self.device:
                self.time.run(until_us)
                continue
            try:
                self.time.run(until_us)
                self.device.window()
            except PowerCut:
                self.lose()
                return False
        return True

    # -- the device's lives --

    def lose(self, cause="power-on"):
        """The device stops here."""
        self.time.end()
        self.device = None
        self.board.power.left = None
        self.board.reset(cause)

    def boot(self, quality="I"):
        """Start the device, with a battery-backed clock unless `quality` is U."""
        for _ in range(_MOST_BOOTS):
            try:
                self.device = self.lives(self)
                break
            except PowerCut:
                self.lose()
        self.wrong += self.device.faults
        if quality != "U":
            self.set_clock(quality, self.clock_error_ms, again=True)
        self.busy()

    def set_clock(self, quality, error_ms=0, again=False):
        """Set the device's clock so far from the truth."""
        if self.device:
            try:
                self.device.clock.set(self.true_ms() + error_ms, quality, 1000,
                                      agreed=quality != "I")
            except ValueError:
                self.lies += 1  # it is wrong, and stays so
                return
        if error_ms and not again:
            self.lies += 1
        self.clock_error_ms = error_ms

    def reboot(self, off_ms, cause="power-on", quality="I", power_w=0):
        """Off for a time, while so much is drawn; then a new life."""
        self.lose(cause)
        self.meter.load(power_w)
        self.off_ms = off_ms
        self.pass_ms(off_ms)
        self.boot(quality)

    def plug(self, pilot, power_w=0):
        """Another pilot state, and what is drawn in it."""
        self.pilot = pilot
        self.meter.load(power_w)
        self.busy()

    def order(self, name, given, done):
        """Give an order; `done(error or None)` is told when it was taken, or not."""
        keeper = self.device.keeper

        async def give():
            try:
                await keeper.order(name, given)
            except (ValueError, JournalError) as error:
                done(error)
            else:
                done(None)

        self.time.spawn(give())
        self.busy()


def as_json(message):
    """A frame's payload."""
    return json.dumps(message).encode()
