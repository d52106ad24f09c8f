"""The device while it runs: what the tasks share and what holds them together. What it consists
of is made in assembly.py."""

import asyncio
import json

from micropython import const

from evmeter import VERSION
from evmeter.ledger.journal import JournalError
from evmeter.ledger.ocmf import quantise
from evmeter.metering.intervals import LENGTH_S, LONG_S
from evmeter.monitoring import alarms as codes
from evmeter.session.machine import CHARGING
from evmeter.system.forget import forget
from evmeter.system.log import log

_WINDOW_MS = const(50)
_HOUSEKEEPING_MS = const(1000)
_SHORT_LIFE_MS = const(600000)
SAFE_LIVES = const(10)  # so many short lives in a row: only what meters is started at once
_SOUND_LIFE_MS = const(3600000)  # such a device is trusted again
_SETTLED_MS = const(30000)  # alarms are written from then on, even if the boot is not settled
_LEAST_PERCENT = const(10)  # with less of the journal free, room is for the running session
_CURSOR_EVERY = const(10)  # seconds
_FRESH_MS = const(10000)
_SESSION_LIVES_MS = const(180000)  # it signs up to six records between two looks at its queue
_MOST_NOTES = const(4)  # that wait to be written
PILOT_KEY = "pilot_a"
UNSEEN_KEY = "alarms"
LIMIT_KEY = "limit_ma"
_PILOT_STEP_MV = const(60)
_THIN_PERCENT = const(25)  # with less of the journal free, intervals get longer


class StartError(Exception):
    """The firmware cannot start as it is configured; the text says why, for the installer."""


class App:
    """The device: everything from the board's hardware to the running tasks. `examines`: it is
    only looked at, which is no start of the firmware. Raises StartError."""

    def __init__(self, board, examines=False):
        self.board = board
        self.examines = examines
        self.operations = self.probation = None
        self._commands = self._updater = None
        self._bad_signatures = 0
        self._notes = []  # audit entries that wait to be written: name, ms since boot, fields
        self._traces = {}
        from evmeter import assembly

        forget("evmeter", "assembly")
        assembly.assemble(self)

    def updater(self):
        """What takes a new firmware. Raises ValueError."""
        if self._updater is None:
            slots = self.board.rom_slots()
            if slots is None:
                raise ValueError("this firmware lies where no other has a place beside it")
            from evmeter.system.update import Updater

            self._updater = Updater(slots, self.board.name, self.config["update"]["keys"],
                                    self.board.nvs, self.poll.bus_idle)
        return self._updater

    def well(self):
        """Whether this firmware does what it is for."""
        latest = self.poll.latest
        return (latest is not None and self.clock.mono_ms() - latest.mono_ms < _FRESH_MS
                and self.keeper.filter.state is not None and not self.conditions.pilot_why
                and self.journal.ready and self.signer is not None)

    def online(self):
        """Whether the broker takes this device."""
        return self.uplink.online

    def clock_why(self):
        """What the time servers' state is."""
        return self.time.status if self.time else "no time server is configured"

    async def _watch_probation(self):
        async with self.poll.bus_idle:
            seen = self.probation.check()
        if not seen:
            return
        self.probation = None
        forget("evmeter.system", "update")
        self.note("update_" + seen, {"version": VERSION})
        if seen == "failed":
            log.error("this firmware is not well: the one before comes back")
            while self.keeper.engaged() or not self.at_rest():
                self.supervisor.check_in("books", _SESSION_LIVES_MS)
                await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            self.board.reset()

    def load_commands(self):
        from evmeter.system.operations import Operations
        from evmeter.uplink.commands import Commands

        settings = self.config
        self.operations = Operations(self)
        commands = Commands(settings["id"], settings["operator"], self.clock, self.board.nvs,
                            self.poll.bus_idle, self.operations, self.uplink.answer)
        self.supervisor.start("commands", commands.run)
        self._commands = commands  # not before it runs: else nothing would ever start it

    def command(self, payload, wish=False):
        if self._commands is None:
            self.load_commands()
        self._commands.take(payload, wish)

    def wish(self, payload):
        """It is retained, so that it comes at each connection: what is in force already is not
        looked at again."""
        if not payload:
            return
        wish = json.loads(payload)
        if not isinstance(wish, dict) or wish.get("rev") != self.config["rev"]:
            self.command(payload, True)

    def report_config(self):
        from evmeter.system import report

        if self.operations is None:
            forget("evmeter.system", "report")
        self.uplink.answer(b"cfg", lambda: report.report(self), True)

    def limit(self, ma):
        """Offer the car at most `ma` from now on, over reboots too."""
        self.board.nvs.set_i32(LIMIT_KEY, ma)
        self.board.nvs.commit()
        self.pilot_pwm.offer(ma)

    def at_rest(self):
        """Whether no record is in the making: the device may be restarted."""
        return not self.ledger.busy() and self.keeper.at_rest()

    def restart(self):
        """Restart at once; a life that ends by an order is no short one."""
        self._count_short(self.short_lives - 1)
        self.board.reset()

    def _count_short(self, short):
        self.short_lives = short
        self.board.nvs.set_i32("short", short)
        self.board.nvs.commit()

    async def _watch_life(self):
        """The count of short lives, once this one is none."""
        lived_ms = self.clock.mono_ms()
        short = self.short_lives
        if lived_ms >= (_SOUND_LIFE_MS if self.safe else _SHORT_LIFE_MS):
            short = 0
        elif lived_ms >= _SHORT_LIFE_MS:
            short = SAFE_LIVES - 1  # one more, and it is safe at once
        if short != self.short_lives:
            await self.forgive(short)

    async def _keep_alarms(self):
        """What nobody has acknowledged is shown again after a reboot."""
        unseen = self.alarms.unseen()
        if unseen != self.unseen:
            async with self.ledger.quiet:
                self.unseen = unseen
                self.board.nvs.set_i32(UNSEEN_KEY, unseen)
                self.board.nvs.commit()

    async def forgive(self, short=0):
        """So many short lives count from now on."""
        async with self.ledger.quiet:
            self._count_short(short)

    async def _keep_pilot_gain(self):
        """What state A measured is known again after a reboot."""
        a_mv = self.pilot.a_mv
        if abs(a_mv - self.kept_a_mv) >= _PILOT_STEP_MV:
            self.kept_a_mv = a_mv
            async with self.ledger.quiet:
                self.board.nvs.set_i32(PILOT_KEY, a_mv)
                self.board.nvs.commit()

    def identity(self):
        poll, settings = self.poll, self.config
        fields = {"GI": "evmeter", "GS": settings["id"], "GV": VERSION, "MV": poll.make,
                  "MM": poll.model, "MS": poll.serial}
        box = settings["charge_box_id"]
        for key, value in (("CI", box or settings["evse_id"]), ("TT", settings["tariff_text"]),
                           ("CF", settings["controller_firmware"]), ("MF", poll.firmware)):
            if value:
                fields[key] = value
        if "CI" in fields:
            fields["CT"] = "CBIDC" if box else "EVSEID"
        loss = settings["cable_loss"]
        if loss["resistance"]:
            fields["LC"] = {"LI": loss["id"], "LR": loss["resistance"], "LU": loss["unit"]}
            if loss["name"]:
                fields["LC"]["LN"] = loss["name"]
        return fields, poll.step_mwh, poll.serial_source

    def _watch_signer(self):
        """A signature that did not verify was made again; that it happens is not right."""
        failures = self.signer.failures if self.signer else 0
        if failures != self._bad_signatures:
            self._bad_signatures = failures
            self.alarms.happened(codes.SIGNATURE, codes.WARNING,
                                 "%d signature(s) did not verify" % failures)

    def damaged(self, text):
        self.alarms.happened(codes.JOURNAL, codes.WARNING, text)

    def task_died(self, name, error, trace):
        code = codes.JOURNAL if isinstance(error, JournalError) else codes.TASK
        self.alarms.happened(code, codes.WARNING, "%s: %s" % (name, error))
        # one that dies again and again the same way is told once
        if self._traces.get(name) != trace and len(self._notes) < _MOST_NOTES:
            self._traces[name] = trace
            self.note("crash", {"task": name, "trace": trace})

    def meter_alive(self):
        self.supervisor.check_in("meter")

    def session_alive(self):
        self.supervisor.check_in("session", _SESSION_LIVES_MS)

    async def _watch_pilot(self):
        pilot, keeper = self.pilot, self.keeper
        while True:
            try:
                pilot.sample()
                keeper.window(pilot.high_mv, pilot.low_mv, pilot.pwm, pilot.duty_permille)
                self.conditions.pilot_why = ""
            except OSError as error:
                self.conditions.pilot_why = "pilot not readable: %s" % error
            self.supervisor.check_in("pilot")
            await asyncio.sleep_ms(_WINDOW_MS)

    def reading(self, reading):
        """Each believed reading, as soon as it is there."""
        clock = self.clock
        self.keeper.reading(reading)
        self.intervals.reading(
            quantise(reading.import_mwh, self.poll.step_mwh), reading.power_mw, reading.mono_ms,
            clock.unix_ms_at(reading.mono_ms) // 1000, clock.quality != "U")
        if self.crosscheck:
            differs = self.crosscheck.reading(reading.import_mwh)
            if differs:
                self.alarms.happened(codes.PULSES, codes.WARNING, differs)

    def meter_event(self, name, fields):
        self.intervals.rebase(self.keeper.meter_event(name, fields))
        if self.crosscheck:
            self.crosscheck.restart()

    def _watch_pulses(self):
        """Pulses that may not have been counted: the open session cannot be billed."""
        latest = self.poll.latest
        if latest and self.pulses.gap and self.keeper.booted:
            self.alarms.happened(codes.PULSES, codes.WARNING, "pulses may have been lost")
            self.meter_event("pulse_gap", {
                "old_mwh": latest.import_mwh, "new_mwh": latest.import_mwh, "modulus_mwh": 0,
                "diff_mwh": 0, "cause": self.pulses.gap})
            self.pulses.gap = ""

    async def _write_interval(self):
        journal = self.journal
        intervals = self.intervals
        intervals.length_s = LONG_S if journal.free_percent() < _THIN_PERCENT else LENGTH_S
        if intervals.closed:
            await self.ledger.interval(intervals.closed)
            intervals.written()

    def note(self, name, fields):
        self._notes.append((name, self.clock.mono_ms(), fields))

    async def _write_notes(self):
        while self._notes and self.keeper.booted:
            name, at_ms, fields = self._notes[0]
            await self.ledger.log(name, self.keeper.sid, at_ms, fields)
            self._notes.pop(0)

    async def _keep_house(self):
        """What must not wait for the flash."""
        clock = self.clock
        while True:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            if self.battery:
                clock.ask_battery(self.battery)
            if self.pulses:
                self._watch_pulses()
            self.conditions.check()
            self.keeper.follow()
            self.uplink.charging = self.keeper.machine.phase == CHARGING
            self.supervisor.check_in("house")

    async def _keep_books(self):
        """What goes into the journal once its turn comes."""
        keeper, round_ = self.keeper, 0
        while True:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
            round_ += 1
            self.supervisor.check_in("books", _SESSION_LIVES_MS)
            await self._watch_life()
            await self._keep_alarms()
            self._watch_signer()
            if self.operations:
                await self.operations.follow()
            if self.trial and await self.trial.check(self):
                self.trial = None
                if self.operations is None:
                    forget("evmeter.system", "trial")
                    forget("evmeter.system", "config")
            if self.probation:
                await self._watch_probation()
            if self.journal.ready:
                await self._write_interval()
                await self._write_notes()
                if self.clock.notes and keeper.booted:
                    await self.clock.write_notes(self.ledger, keeper.sid, self.boots,
                                                 self.first_seq)
                if ((keeper.booted or self.clock.mono_ms() > _SETTLED_MS)
                        and self.journal.free_percent() >= _LEAST_PERCENT):
                    await self.alarms.write(self.ledger, keeper.sid)
                if round_ % _CURSOR_EVERY == 0:
                    await self.ledger.save_cursor()
                    await self._keep_pilot_gain()

    async def main(self):
        """Run until the power goes."""
        start = self.supervisor.start
        if self.pulses:
            start("pulses", self.pulses.run)
        elif self.crosscheck:
            start("pulses", self.crosscheck.run)
        start("meter", self.poll.run)
        start("pilot", self._watch_pilot)
        start("session", self.keeper.run)
        start("house", self._keep_house)
        start("books", self._keep_books)
        if self.pass_through:
            start("meter records", self.pass_through.run)
        if self.safe:
            log.error("safe: %d lives were short; the network waits for 10 minutes",
                      self.short_lives - 1)
            start("network", self._link_up_late)
        else:
            self._link_up()
        await self.supervisor.run()

    def _link_up(self):
        start = self.supervisor.start
        start("network", self.board.network.run)
        start("uplink", self.uplink.run)
        if self.time:
            start("time", self.time.run)

    async def _link_up_late(self):
        """What may have ended the lives before waits until this one has measured for a while."""
        while self.clock.mono_ms() < _SHORT_LIFE_MS:
            await asyncio.sleep_ms(_HOUSEKEEPING_MS)
        self._link_up()

    def run(self):
        """Enter the event loop."""
        asyncio.run(self.main())
