"""Turns what the session rules say into readings, records, events and checkpoints."""

import asyncio
import binascii
import sys

from micropython import const

from evmeter.ledger.ocmf import quantise
from evmeter.monitoring import alarms as codes
from evmeter.session import machine as rules
from evmeter.session import pilot
from evmeter.session.progress import Progress
from evmeter.session.session import Session

_RETRY_MS = const(10000)
_END_RETRY_MS = const(1000)
_PROMPT_MS = const(2000)  # a reading later than this after the edge is said to be late
_BILLABLE_STEPS = const(100)
_LEAST_FREE_PERCENT = const(10)
_MOST_QUEUED = const(64)
_USER_MS = const(300000)


class SessionKeeper:
    """Owns the open session. `meter` is a MeterPoll; the board's `permit(bool)` is the optional
    output to the charge controller."""

    def __init__(self, config, clock, meter, ledger, journal, alarms, board):
        self.device_id = config["id"]
        self._p_max_w = config["meter"]["p_max_w"]
        self._checkpoint_ms = config["session"]["checkpoint_s"] * 1000
        self.clock = clock
        self.meter = meter
        self.ledger = ledger
        self.journal = journal
        self._alarms = alarms
        self.board = board
        self._permit = board.permit
        self._step_mwh = meter.step_mwh
        self.tariff = None
        if config.get("tariff"):
            from evmeter.session import split, tariff

            self.tariff = tariff.Tariff(config["tariff"])
            self.splits = split
        self.split = None
        self._queue = []
        self._told = []  # what progress says, until it is durable
        self._meter_events = []
        self._saved_ms = 0
        self.ended_unix_ms = 0
        self.started_ms = 0
        self.machine = rules.SessionMachine(config["session"]["finished_after_s"] * 1000)
        self.filter = pilot.PilotFilter()
        self.session = self.progress = None
        self.sid = ""
        self._user = None  # identified before the session began, and until when that counts
        self._user_until_ms = 0
        self.refused = ""
        self.booted = False
        self.on_change = None
        self.pause = asyncio.sleep_ms  # a test lets its own time pass

    # -- the pilot side: called every window, never waits --

    def window(self, high_mv, low_mv, pwm):
        """Take one pilot window."""
        now_ms = self.clock.mono_ms()
        if self.filter.window(high_mv, low_mv, pwm, now_ms):
            if self.filter.diode_fault:
                self._alarms.raise_(codes.DIODE, codes.WARNING, "pilot without diode")
            self._changed()
        if not self.booted:
            return  # the rules wait until it is settled what was open before
        state = self.filter
        for happened in self.machine.step(state.state, state.pwm, state.since_ms, now_ms):
            if len(self._queue) < _MOST_QUEUED:
                self._queue.append(happened)

    def reading(self, reading):
        """Take each believed reading: power tells progress, and when the car is done; it may be
        the first register in another tariff window."""
        mono_ms, power_mw = reading.mono_ms, reading.power_mw
        if self.split:
            self.split.reading(self.clock.unix_ms_at(mono_ms), self.clock.quality,
                               quantise(reading.import_mwh, self._step_mwh), mono_ms)
        if self.progress and power_mw is not None:
            self.progress.power(power_mw, mono_ms)
            if self.machine.power(power_mw, mono_ms):
                self._queue.append((rules.FINISHED, mono_ms))

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
        old_mwh = quantise(fields["old_mwh"], self._step_mwh)
        jump_mwh = quantise(fields["new_mwh"], self._step_mwh) - old_mwh
        if fields["diff_mwh"] is not None:
            jump_mwh -= quantise(fields["diff_mwh"], self._step_mwh)
        fields["jump_mwh"] = jump_mwh
        if self.session:
            self._spoil(fields["cause"], jump_mwh)
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

    def _untold(self):
        return self._meter_events or self._told or (self.split and self.split.unwritten)

    async def tell(self):
        """Write what happened in the session, before what comes next."""
        await self.tell_meter_events()
        while self._told:
            name, at_ms, reason = self._told[0]
            await self.event(name, at_ms, {"why": reason})
            self._told.pop(0)
        while self.split and self.split.unwritten:
            await self.event(self.splits.EVENT, self.clock.mono_ms(), self.split.unwritten[0])
            self.split.unwritten.pop(0)

    def _changed(self):
        if self.on_change:
            self.on_change()

    # -- the slow side --

    async def run(self):
        """Settle what was open before the boot, then follow the rules for ever."""
        if not self.booted:
            from evmeter.session import recovery

            await recovery.settle(self)
            self.booted = True
            del recovery, sys.modules["evmeter.session"].recovery  # its memory is given back
            del sys.modules["evmeter.session.recovery"]
        while True:
            while self._queue:
                await self.tell()
                what, at_ms = self._queue[0]
                await self._handle(what, at_ms)
                self._queue.pop(0)
            await self.tell()
            await self._wait(_RETRY_MS)
            if not self._queue:
                await self._idle()

    async def _wait(self, timeout_ms):
        deadline_ms = self.clock.mono_ms() + timeout_ms
        while (not self._queue and not self._untold()
               and self.clock.mono_ms() < deadline_ms):
            await self.pause(50)
            if self.session and self._checkpoint_due():
                await self.checkpoint()

    async def _idle(self):
        if self.machine.is_open and not self.session and self.refused:
            await self._open(self.clock.mono_ms())

    async def _handle(self, what, at_ms):
        if what == rules.OPEN:
            await self._open(at_ms)
        elif what in (rules.CLOSE, rules.ABORT):
            if self.session:
                await self._close(at_ms, "E" if what == rules.CLOSE else "A")
            self._alarms.clear(codes.SESSION_REFUSED)
            self.refused = ""
        elif self.session:
            if what == rules.CHARGING:
                self.session.charged = True
            self.follow()
            await self.tell()
            await self.checkpoint()
        self._changed()

    def register_mwh(self):
        """The newest believed import register, rounded to the meter's step, or None."""
        latest = self.meter.latest
        return quantise(latest.import_mwh, self._step_mwh) if latest else None

    def meter_code(self):
        return binascii.crc32(self.meter.serial.encode()) & 0xFFFFFFFF

    def energy_mwh(self):
        """Energy of the open session so far."""
        register_mwh = self.register_mwh()
        if not self.session or register_mwh is None:
            return 0
        return max(0, register_mwh - self.session.begin_mwh - self.session.jump_mwh)

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

    # -- start --

    def _refusal(self):
        if not self.ledger.can_sign():
            return codes.KEY, "no signing key"
        if not self.journal.ready:
            return codes.JOURNAL, "journal not usable"
        if self.journal.free_percent() < _LEAST_FREE_PERCENT:
            return codes.JOURNAL_FULL, "less than 10 % of the journal free"
        return None

    async def _open(self, at_ms):
        if not self.session:  # an attempt that died after the record goes on with the rest
            refusal = self._refusal()
            if not refusal:
                mwh, letter, read_ms = await self.meter.edge_reading()
                if mwh is None:
                    refusal = codes.METER, "no believed reading (%s)" % letter
            if refusal:
                self._refuse(refusal[0], refusal[1])
                return
            await self._begin(at_ms, mwh, letter, read_ms)
        await self.checkpoint()
        await self.event(rules.OPEN, at_ms, self.split.label() if self.split else {})

    async def _begin(self, at_ms, mwh, letter, read_ms):
        await self.tell_meter_events()
        late = read_ms - at_ms > _PROMPT_MS
        begin_mwh = quantise(mwh, self._step_mwh)
        session = Session()
        session.meter = self.meter_code()
        session.begin_mwh = session.last_mwh = begin_mwh
        # A session that follows a power failure at once must not begin before that one's end.
        session.begin_unix_ms = max(self.clock.unix_ms_at(read_ms if late else at_ms),
                                    self.ended_unix_ms)
        session.begin_quality = self.clock.quality
        reading = (session.begin_unix_ms, session.begin_quality, "B", begin_mwh, "", letter)
        user = self._user if self.clock.mono_ms() <= self._user_until_ms else None
        session.begin_seq, session.page, self.sid = await self.ledger.begin(
            reading, self.device_id, self.out_mwh(begin_mwh), user)
        session.user = user
        self._user = None
        self.session = session
        self.progress = Progress(at_ms)
        if self.tariff:
            self.split = self.splits.Split(self.tariff, session.begin_unix_ms,
                                           session.begin_quality, begin_mwh)
        self.started_ms = at_ms
        self.refused = ""
        self._alarms.clear(codes.SESSION_REFUSED)
        if self._permit:
            self._permit(True)

    # -- orders: from the backend's commands, or a reader beside the charger --

    async def order(self, name, given):
        """Take an order (session/orders.py) for the open session, or "user" for the next one that
        begins within 5 minutes. Raises ValueError, one line; JournalError."""
        from evmeter.session import orders

        fields = orders.check(name, given)
        if not self.session:
            if name != "user":
                raise ValueError("%s: no session is open" % name)
            self._user = fields["user"]
            self._user_until_ms = self.clock.mono_ms() + _USER_MS
            return
        await self.event(name, self.clock.mono_ms(), fields)
        orders.apply(self.session, name, fields)
        if name == "stop" and self._permit:
            self._permit(False)
        self._changed()

    def _refuse(self, code, text):
        if not self.refused:
            self._alarms.raise_(code, codes.CRITICAL, text)
            self._alarms.raise_(codes.SESSION_REFUSED, codes.CRITICAL, text)
            if self._permit:
                self._permit(False)
        self.refused = text

    # -- checkpoint --

    def _checkpoint_due(self):
        return self.clock.mono_ms() - self._saved_ms >= self._checkpoint_ms

    def _update(self):
        session = self.session
        register_mwh = self.register_mwh()
        if register_mwh is not None and register_mwh > session.last_mwh:
            session.last_mwh = register_mwh
        session.last_unix_ms, session.last_quality = self.clock.now()
        now_ms = self.clock.mono_ms()
        session.duration_s += (now_ms - self.started_ms) // 1000
        self.started_ms += (now_ms - self.started_ms) // 1000 * 1000

    async def checkpoint(self):
        self._update()
        self._saved_ms = self.clock.mono_ms()
        body = self.session.pack()
        self.board.rtc_memory(body)
        await self.ledger.save("session", body)

    # -- end --

    async def final_reading(self):
        while True:
            mwh, letter, read_ms = await self.meter.edge_reading()
            if mwh is not None:
                self._alarms.clear(codes.METER)
                await self.tell_meter_events()
                return quantise(mwh, self._step_mwh), letter, read_ms
            self._alarms.raise_(codes.METER, codes.CRITICAL, "no end reading (%s)" % letter)
            await self.pause(_END_RETRY_MS)

    async def _close(self, at_ms, tx):
        end_mwh, letter, read_ms = await self.final_reading()
        late = read_ms - at_ms > _PROMPT_MS
        end_unix_ms = self.clock.unix_ms_at(read_ms if late else at_ms)
        self.session.duration_s += max(0, at_ms - self.started_ms) // 1000
        self.started_ms = at_ms
        self.follow()
        if tx == "E" and self.session.stop:
            tx = self.session.stop
        await self.complete(end_unix_ms, end_mwh, letter, tx, at_ms)

    async def complete(self, end_unix_ms, end_mwh, letter, tx, at_ms):
        session = self.session
        # Neither a late begin reading nor a clock that was set may turn time back in a record.
        end_unix_ms = max(end_unix_ms, session.begin_unix_ms)
        await self.tell()
        changes = ()
        fields = {}
        if self.split:
            fields = self.split.finish(self.clock.unix_ms_at(at_ms), self.clock.quality, end_mwh,
                                       at_ms)
            changes = tuple(self.split.readings)
            if changes:
                end_unix_ms = max(end_unix_ms, changes[-1][0])
        energy_mwh = end_mwh - session.begin_mwh - session.jump_mwh
        if session.spoiled and letter == "G":
            letter = "X" if session.exchanged() else "O"
        billable = (letter == "G" and not session.spoiled and energy_mwh >= 0
                    and energy_mwh >= _BILLABLE_STEPS * self._step_mwh)
        readings = (
            (session.begin_unix_ms, session.begin_quality, "B", session.begin_mwh, "", "G"),
        ) + changes + (
            (end_unix_ms, self.clock.quality, tx, end_mwh, "", letter),
        )
        if self.journal.open_seq:  # not yet written by an attempt that died afterwards
            await self.ledger.complete(self.sid, readings, session, billable, fields.get("split"))
        self.ended_unix_ms = end_unix_ms
        fields.update({
            "begin_mwh": session.begin_mwh, "end_mwh": end_mwh, "gap_mwh": session.gap_mwh,
            "energy_mwh": energy_mwh, "tx": tx, "dur_s": session.duration_s,
            "dur_pm_s": session.duration_pm_s, "bill": 1 if billable else 0})
        await self.ledger.event(rules.CLOSE, self.sid, at_ms, fields)
        self.session = self.split = self.progress = None
        self.sid = ""
        self.board.rtc_memory(b"")
        await self.ledger.save("session", b"")
