"""The open session: what is known of it, what is told of it, and how that survives a reboot."""

import binascii

from micropython import const

from evmeter.ledger.ocmf import quantise
from evmeter.session import machine as rules
from evmeter.session import pilot
from evmeter.session.session import METER_KEY

_MOST_QUEUED = const(64)
_USER_MS = const(300000)
_THIN_PERCENT = const(25)  # with less of the journal free, events of a kind come once a minute


class OpenSession:
    """Follows readings and phases while a session is open (`session` is one), and between sessions
    what concerns the next. `on_change()` is called when the status message would be another."""

    def __init__(self, config, clock, meter, ledger, journal, board):
        self.device_id = config["id"]
        self.clock = clock
        self.meter = meter
        self.ledger = ledger
        self.journal = journal
        self.board = board
        self.permit = board.permit
        self.step_mwh = meter.step_mwh
        self.tariff = None
        if config.get("tariff"):
            from evmeter.session import split, tariff

            self.tariff = tariff.Tariff(config["tariff"])
            self.splits = split
        self.machine = rules.SessionMachine(config["session"]["finished_after_s"] * 1000)
        self.filter = pilot.PilotFilter()
        self.session = self.progress = self.split = None
        self.sid = ""
        self.duty_permille = None
        self.started_ms = None  # up to where the session's duration is counted
        self.on_change = None
        self.booted = False  # whether it is settled what was open before
        self._checkpoint_ms = config["session"]["checkpoint_s"] * 1000
        self._saved_ms = 0
        self._steps = 0  # of the clock, as far as the checkpoint knows of them
        self._told = []  # what progress says, until it is durable
        self._thinned = None  # what of it waits, where the journal's room runs out (thin.py)
        self._meter_events = []
        self._jumped_ms = 0
        self._user = None  # identified before the session began, and until when that counts
        self._user_until_ms = 0

    def changed(self):
        if self.on_change:
            self.on_change()

    def register_mwh(self):
        """The newest believed import register, rounded to the meter's step, or None."""
        latest = self.meter.latest
        if latest is None or latest.mono_ms < self._jumped_ms:
            return None  # an edge reading found the jump, the poll has not come round since
        return quantise(latest.import_mwh, self.step_mwh)

    def meter_code(self):
        return binascii.crc32(self.meter.serial.encode()) & 0xFFFFFFFF

    async def save_meter(self):
        """Remember over a reboot whose register is accounted for."""
        async with self.ledger.quiet:
            # the second store holds signed 32-bit numbers
            self.board.nvs.set_i32(METER_KEY, self.meter_code() & 0x7FFFFFFF)
            self.board.nvs.commit()

    def energy_mwh(self):
        """Energy of the open session so far."""
        session, register_mwh = self.session, self.register_mwh()
        if not session:
            return 0
        if register_mwh is None:
            register_mwh = session.last_mwh
        return max(0, register_mwh - session.begin_mwh - session.jump_mwh)

    def missing_mwh(self):
        """Energy to the target that was ordered, None where there is none."""
        session, register_mwh = self.session, self.register_mwh()
        if register_mwh is not None:
            if session.target_mwh is not None:
                return session.target_mwh - self.energy_mwh()
            if session.target_minor is not None and self.split:
                return self.split.missing_mwh(session.target_minor, register_mwh)
        return None

    def event(self, name, at_ms, fields):
        fields["e_mwh"] = self.energy_mwh()
        return self.ledger.event(name, self.sid, at_ms, fields)

    def out_mwh(self, register_mwh):
        """Energy since the last accounted register that belongs to no session."""
        mark_mwh = self.journal.mark_mwh
        return 0 if mark_mwh is None else register_mwh - mark_mwh

    def reading(self, reading):
        """Take each believed reading: power tells progress, and when the car is done; it may be
        the first register in another tariff window."""
        mono_ms, power_mw = reading.mono_ms, reading.power_mw
        if self.split:
            self.split.reading(self.clock.unix_ms_at(mono_ms), self.clock.quality,
                               quantise(reading.import_mwh, self.step_mwh), mono_ms)
        if self.progress and power_mw is not None:
            self.progress.power(power_mw, mono_ms)
            if self.machine.power(power_mw, mono_ms):
                self.finished(mono_ms)

    def follow(self):
        """Once a second: what the session is doing, for the driver and the events; and the session
        into the memory that survives a watchdog reset."""
        if not self.session or not self.progress:
            return
        machine = self.machine
        if len(self._told) < _MOST_QUEUED:
            self._told += self.progress.update(
                machine.phase, machine.phase_ms, self.filter.pwm, machine.finished_ms,
                self.missing_mwh(), self.clock.mono_ms())
        self._update()
        self.board.rtc_memory(self.session.pack())

    def meter_event(self, name, fields):
        """The meter's register goes on from elsewhere (MeterPoll.on_event). A session with that
        inside it cannot be billed: its registers do not tell its energy. Returns the jump in mWh,
        which is no energy; a rollover's own energy is not part of it."""
        old_mwh = quantise(fields["old_mwh"], self.step_mwh)
        jump_mwh = quantise(fields["new_mwh"], self.step_mwh) - old_mwh
        if fields["diff_mwh"] is not None:
            jump_mwh -= quantise(fields["diff_mwh"], self.step_mwh)
        fields["jump_mwh"] = jump_mwh
        if self.session:
            self._spoil(fields["cause"], jump_mwh)
        if jump_mwh:
            self._jumped_ms = self.clock.mono_ms()
        self._meter_events.append((name, self.clock.mono_ms(), fields))
        return jump_mwh

    def _spoil(self, cause, jump_mwh):
        session = self.session
        session.spoiled = cause
        session.jump_mwh += jump_mwh
        session.last_mwh += jump_mwh
        if self.split:
            self.split.skip(jump_mwh, cause)

    async def tell_meter_events(self):
        """Write what happened to the meter before anything that builds on its register. The mark
        goes along with the jump: inside a session it stays at begin plus jumps."""
        while self._meter_events:
            name, at_ms, fields = self._meter_events[0]
            mark_mwh = self.journal.mark_mwh
            if mark_mwh is None:  # nothing is accounted for yet: there is nothing to jump from
                fields["jump_mwh"] = 0
            else:
                mark_mwh += fields["jump_mwh"]
            fields["e_mwh"] = self.energy_mwh()
            await self.ledger.log(name, self.sid, at_ms, fields, mark_mwh)
            self._meter_events.pop(0)
            if "serial" in fields:
                await self.save_meter()

    def untold(self):
        return (self._meter_events or self._told or (self.split and self.split.unwritten)
                or (self._thinned and self._thinned.due(self.clock.mono_ms())))

    async def tell(self, last=False):
        """Write what happened in the session, before what comes next; `last`: it ends."""
        await self.tell_meter_events()
        while self._told:
            name, at_ms, reason = self._told[0]
            if not self._waits(name, at_ms, reason):
                await self.event(name, at_ms, {"why": reason})
            self._told.pop(0)
        if self._thinned:
            await self._tell_thinned(last)
        while self.split and self.split.unwritten:
            await self.event(self.splits.EVENT, self.clock.mono_ms(), self.split.unwritten[0])
            self.split.unwritten.pop(0)

    def _waits(self, name, at_ms, reason):
        if self.journal.free_percent() >= _THIN_PERCENT:
            return False
        if not self._thinned:
            from evmeter.session.thin import Thinned

            self._thinned = Thinned()
        return self._thinned.holds(name, (at_ms, reason), self.clock.mono_ms())

    async def _tell_thinned(self, last):
        while True:
            name = self._thinned.due(self.clock.mono_ms(), last)
            if not name:
                break
            at_ms, fields = self._thinned.held(name)
            await self.event(name, at_ms, fields)
            self._thinned.written(name, self.clock.mono_ms())

    def checkpoint_due(self):
        return (self.clock.mono_ms() - self._saved_ms >= self._checkpoint_ms
                or self.clock.steps != self._steps)

    def _update(self):
        session = self.session
        if self.clock.steps != self._steps:
            session.stepped = True
        if self.started_ms is None:  # it has ended
            return
        register_mwh = self.register_mwh()
        if register_mwh is not None and register_mwh > session.last_mwh:
            session.last_mwh = register_mwh
        session.last_unix_ms, session.last_quality = self.clock.now()
        passed_s = (self.clock.mono_ms() - self.started_ms) // 1000
        session.duration_s += passed_s
        self.started_ms += passed_s * 1000

    def end_at(self, at_ms):
        """The session's duration ends there, however long its record still takes."""
        self.follow()
        if self.started_ms is not None:
            # the edge is dated back, even to before the session was resumed
            more_s = (at_ms - self.started_ms) // 1000
            self.session.duration_s = max(0, self.session.duration_s + more_s)
            self.started_ms = None

    async def checkpoint(self):
        self._update()
        self._saved_ms = self.clock.mono_ms()
        self._steps = self.clock.steps
        body = self.session.pack()
        self.board.rtc_memory(body)
        await self.ledger.save("session", body)

    async def order(self, name, given):
        """Take an order (session/orders.py) for the open session, or "user" for the next one that
        begins within 5 minutes. Raises ValueError, one line; JournalError."""
        from evmeter.session import orders

        fields = orders.check(name, given)
        session = self.session
        if not self.booted:  # older orders may still be taken from the journal
            raise ValueError("%s: the device is starting" % name)
        if not session:
            if name != "user":
                raise ValueError("%s: no session is open" % name)
            self._user = fields["user"]
            self._user_until_ms = self.clock.mono_ms() + _USER_MS
            return
        await self.event(name, self.clock.mono_ms(), fields)
        if self.session is not session or not self.journal.open_seq:
            raise ValueError("%s: the session has ended" % name)
        orders.apply(session, name, fields)
        if name == "stop" and self.permit:
            self.permit(False)
        self.changed()
