"""Turns what the session rules say into readings, records, events and checkpoints."""

import asyncio
import binascii

from micropython import const

from evmeter.ledger.ledger import newest_unix_ms
from evmeter.ledger.ocmf import quantise
from evmeter.monitoring import alarms as codes
from evmeter.session import machine as rules
from evmeter.session import pilot, resume
from evmeter.session.session import Session, unpack

_RETRY_MS = const(10000)
_END_RETRY_MS = const(1000)
_PROMPT_MS = const(2000)  # a reading later than this after the edge is said to be late
_BILLABLE_STEPS = const(100)
_LEAST_FREE_PERCENT = const(10)
_MOST_QUEUED = const(64)
_METER_KEY = "meter"


class SessionKeeper:
    """Owns the open session. `meter` is a MeterPoll; the board's `permit(bool)` is the optional
    output to the charge controller."""

    def __init__(self, config, clock, meter, ledger, journal, alarms, board):
        self._id = config["id"]
        self._p_max_w = config["meter"]["p_max_w"]
        self._checkpoint_ms = config["session"]["checkpoint_s"] * 1000
        self._clock = clock
        self._meter = meter
        self._ledger = ledger
        self._journal = journal
        self._alarms = alarms
        self._board = board
        self._permit = board.permit
        self._step_mwh = meter.step_mwh
        self._queue = []
        self._meter_events = []
        self._saved_ms = 0
        self._ended_unix_ms = 0
        self._started_ms = 0
        self.machine = rules.SessionMachine(config["session"]["finished_after_s"] * 1000)
        self.filter = pilot.PilotFilter()
        self.session = None
        self.sid = ""
        self.refused = ""
        self.booted = False
        self.on_change = None
        self.pause = asyncio.sleep_ms  # a test lets its own time pass

    # -- the pilot side: called every window, never waits --

    def window(self, high_mv, low_mv, pwm):
        """Take one pilot window."""
        now_ms = self._clock.mono_ms()
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

    def power(self, power_mw, mono_ms):
        """Take a power reading while charging; low power for long means that the car is done."""
        if self.machine.power(power_mw, mono_ms):
            self._queue.append((rules.FINISHED, mono_ms))

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
        self._meter_events.append((name, self._clock.mono_ms(), fields))
        return jump_mwh

    def _spoil(self, cause, jump_mwh):
        session = self.session
        session.spoiled = cause
        session.jump_mwh += jump_mwh
        session.last_mwh += jump_mwh

    async def _tell_meter_events(self):
        """Write what happened to the meter before anything that builds on its register. The mark
        goes along with the jump: inside a session it stays at begin plus jumps."""
        while self._meter_events:
            name, at_ms, fields = self._meter_events[0]
            mark_mwh = self._journal.mark_mwh
            if mark_mwh is None:  # nothing is accounted for yet: there is nothing to jump from
                fields["jump_mwh"] = 0
            else:
                mark_mwh += fields["jump_mwh"]
            fields["e_mwh"] = self.energy_mwh()
            await self._ledger.log(name, self.sid, at_ms, fields, mark_mwh)
            self._meter_events.pop(0)

    def _changed(self):
        if self.on_change:
            self.on_change()

    # -- the slow side --

    async def run(self):
        """Settle what was open before the boot, then follow the rules for ever."""
        if not self.booted:
            await self._boot()
            self.booted = True
        while True:
            while self._queue:
                await self._tell_meter_events()
                what, at_ms = self._queue[0]
                await self._handle(what, at_ms)
                self._queue.pop(0)
            await self._tell_meter_events()
            await self._wait(_RETRY_MS)
            if not self._queue:
                await self._idle()

    async def _wait(self, timeout_ms):
        deadline_ms = self._clock.mono_ms() + timeout_ms
        while not self._queue and not self._meter_events and self._clock.mono_ms() < deadline_ms:
            await self.pause(50)
            if self.session and self._checkpoint_due():
                await self._checkpoint()

    async def _idle(self):
        if self.machine.is_open and not self.session and self.refused:
            await self._open(self._clock.mono_ms())

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
            await self._event(what, at_ms, {})
            await self._checkpoint()
        self._changed()

    def register_mwh(self):
        """The newest believed import register, rounded to the meter's step, or None."""
        latest = self._meter.latest
        return quantise(latest.import_mwh, self._step_mwh) if latest else None

    def _meter_code(self):
        return binascii.crc32(self._meter.serial.encode()) & 0xFFFFFFFF

    def energy_mwh(self):
        """Energy of the open session so far."""
        register_mwh = self.register_mwh()
        if not self.session or register_mwh is None:
            return 0
        return max(0, register_mwh - self.session.begin_mwh - self.session.jump_mwh)

    def _event(self, name, at_ms, fields):
        fields["e_mwh"] = self.energy_mwh()
        return self._ledger.event(name, self.sid, at_ms, fields)

    def _out_mwh(self, register_mwh):
        """Energy since the last accounted register that belongs to no session."""
        mark_mwh = self._journal.mark_mwh
        return 0 if mark_mwh is None else register_mwh - mark_mwh

    # -- start --

    def _refusal(self):
        if not self._ledger.can_sign():
            return codes.KEY, "no signing key"
        if not self._journal.ready:
            return codes.JOURNAL, "journal not usable"
        if self._journal.free_percent() < _LEAST_FREE_PERCENT:
            return codes.JOURNAL_FULL, "less than 10 % of the journal free"
        return None

    async def _open(self, at_ms):
        if not self.session:  # an attempt that died after the record goes on with the rest
            refusal = self._refusal()
            if not refusal:
                mwh, letter, read_ms = await self._meter.edge_reading()
                if mwh is None:
                    refusal = codes.METER, "no believed reading (%s)" % letter
            if refusal:
                self._refuse(refusal[0], refusal[1])
                return
            await self._begin(at_ms, mwh, letter, read_ms)
        await self._checkpoint()
        await self._event(rules.OPEN, at_ms, {})

    async def _begin(self, at_ms, mwh, letter, read_ms):
        await self._tell_meter_events()
        late = read_ms - at_ms > _PROMPT_MS
        begin_mwh = quantise(mwh, self._step_mwh)
        session = Session()
        session.meter = self._meter_code()
        session.begin_mwh = session.last_mwh = begin_mwh
        # A session that follows a power failure at once must not begin before that one's end.
        session.begin_unix_ms = max(self._clock.unix_ms_at(read_ms if late else at_ms),
                                    self._ended_unix_ms)
        session.begin_quality = self._clock.quality
        reading = (session.begin_unix_ms, session.begin_quality, "B", begin_mwh, "", letter)
        session.begin_seq, session.page, self.sid = await self._ledger.begin(
            reading, self._id, self._out_mwh(begin_mwh))
        self.session = session
        self._started_ms = at_ms
        self.refused = ""
        self._alarms.clear(codes.SESSION_REFUSED)
        if self._permit:
            self._permit(True)

    def _refuse(self, code, text):
        if not self.refused:
            self._alarms.raise_(code, codes.CRITICAL, text)
            self._alarms.raise_(codes.SESSION_REFUSED, codes.CRITICAL, text)
            if self._permit:
                self._permit(False)
        self.refused = text

    # -- checkpoint --

    def _checkpoint_due(self):
        return self._clock.mono_ms() - self._saved_ms >= self._checkpoint_ms

    def _update(self):
        session = self.session
        register_mwh = self.register_mwh()
        if register_mwh is not None and register_mwh > session.last_mwh:
            session.last_mwh = register_mwh
        session.last_unix_ms, session.last_quality = self._clock.now()
        now_ms = self._clock.mono_ms()
        session.duration_s += (now_ms - self._started_ms) // 1000
        self._started_ms += (now_ms - self._started_ms) // 1000 * 1000

    async def _checkpoint(self):
        self._update()
        self._saved_ms = self._clock.mono_ms()
        body = self.session.pack()
        self._board.rtc_memory(body)
        await self._ledger.save("session", body)

    def keep_in_ram(self):
        """Note the session in memory that survives a watchdog reset; once a second is enough."""
        if self.session:
            self._update()
            self._board.rtc_memory(self.session.pack())

    # -- end --

    async def _final_reading(self):
        while True:
            mwh, letter, read_ms = await self._meter.edge_reading()
            if mwh is not None:
                self._alarms.clear(codes.METER)
                await self._tell_meter_events()
                return quantise(mwh, self._step_mwh), letter, read_ms
            self._alarms.raise_(codes.METER, codes.CRITICAL, "no end reading (%s)" % letter)
            await self.pause(_END_RETRY_MS)

    async def _close(self, at_ms, tx):
        end_mwh, letter, read_ms = await self._final_reading()
        late = read_ms - at_ms > _PROMPT_MS
        end_unix_ms = self._clock.unix_ms_at(read_ms if late else at_ms)
        self.session.duration_s += max(0, at_ms - self._started_ms) // 1000
        self._started_ms = at_ms
        await self._complete(end_unix_ms, end_mwh, letter, tx, at_ms)

    async def _complete(self, end_unix_ms, end_mwh, letter, tx, at_ms):
        session = self.session
        # Neither a late begin reading nor a clock that was set may turn time back in a record.
        end_unix_ms = max(end_unix_ms, session.begin_unix_ms)
        energy_mwh = end_mwh - session.begin_mwh - session.jump_mwh
        if session.spoiled and letter == "G":
            letter = "X" if session.exchanged() else "O"
        billable = (letter == "G" and not session.spoiled and energy_mwh >= 0
                    and energy_mwh >= _BILLABLE_STEPS * self._step_mwh)
        readings = (
            (session.begin_unix_ms, session.begin_quality, "B", session.begin_mwh, "", "G"),
            (end_unix_ms, self._clock.quality, tx, end_mwh, "", letter),
        )
        if self._journal.open_seq:  # not yet written by an attempt that died afterwards
            await self._ledger.complete(self.sid, readings, session.gap_mwh, session.jump_mwh,
                                        billable)
        self._ended_unix_ms = end_unix_ms
        await self._ledger.event(rules.CLOSE, self.sid, at_ms, {
            "begin_mwh": session.begin_mwh, "end_mwh": end_mwh, "gap_mwh": session.gap_mwh,
            "energy_mwh": energy_mwh, "tx": tx, "dur_s": session.duration_s,
            "bill": 1 if billable else 0})
        self.session = None
        self.sid = ""
        self._board.rtc_memory(b"")
        await self._ledger.save("session", b"")

    # -- boot --

    async def _boot(self):
        while self._meter.latest is None or self.filter.state is None:
            await self.pause(100)
        now_ms = self._clock.mono_ms()
        register_mwh = self.register_mwh()
        if not self._journal.ready:
            return
        self._ended_unix_ms = newest_unix_ms(self._journal) - 1000
        # First, for the stored session learns of a jump by the journal's mark.
        await self._tell_meter_events()
        self.session = session = self._stored_session()
        if session:
            self.sid = "%s-%06d" % (self._id, session.page)
            self._clock.raise_floor(session.last_unix_ms)
        code = self._meter_code() & 0x7FFFFFFF  # the second store holds signed 32-bit numbers
        known = self._known_meter()
        if known not in (code, None):
            self._exchanged(session, register_mwh)
        await self._tell_meter_events()
        if known != code:
            self._board.nvs.set_i32(_METER_KEY, code)
            self._board.nvs.commit()
        fields = {"now_mwh": register_mwh, "cause": self._board.reset_cause,
                  "faults": self._journal.faults}
        if session:  # what flowed since its begin is the session's own
            await self._ledger.event("boot", self.sid, now_ms, fields)
        else:
            fields["out_mwh"] = self._out_mwh(register_mwh)
            await self._ledger.event("boot", "", now_ms, fields, register_mwh)
        if session:
            await self._settle(session, register_mwh, now_ms)

    def _known_meter(self):
        """The code of the meter of before the reboot, or None."""
        try:
            return self._board.nvs.get_i32(_METER_KEY)
        except OSError:
            return None

    def _exchanged(self, session, register_mwh):
        """Another meter than before the reboot: its register tells nothing of the first one's."""
        old_mwh = session.last_mwh if session else self._journal.mark_mwh
        if old_mwh is not None:
            self.meter_event("meter_rebase", {
                "old_mwh": old_mwh, "new_mwh": register_mwh, "modulus_mwh": 0, "diff_mwh": None,
                "cause": "meter exchanged while off"})

    def base_mwh(self):
        """The last register known before the boot, or None: what the first reading is judged by.
        Raises JournalError."""
        if not self._journal.open_seq:
            return self._journal.mark_mwh
        return self._stored_session().last_mwh

    def _stored_session(self):
        """The session that was open before the boot, from the freshest place that knows it."""
        open_seq = self._journal.open_seq
        if not open_seq:
            return None
        best = None
        for body in (self._journal.load_small("session"), self._board.rtc_memory()):
            found = unpack(bytes(body) if body else None)
            if found and found.begin_seq == open_seq and (
                    best is None or found.last_mwh >= best.last_mwh):
                best = found
        if best is None:
            best = self._begun(open_seq)
        # The journal's mark went along with every jump, the checkpoint may be older.
        jump_mwh = self._journal.mark_mwh - best.begin_mwh
        if jump_mwh != best.jump_mwh:
            best.spoiled = best.spoiled or "register not continuous"
            best.last_mwh += jump_mwh - best.jump_mwh
            best.jump_mwh = jump_mwh
        return best

    def _begun(self, open_seq):
        """The session as its begin record tells it, where no checkpoint can be read."""
        session = Session()
        session.begin_seq = open_seq
        session.page, unix_ms, quality, mwh = self._ledger.begin_reading(open_seq)
        session.begin_unix_ms = session.last_unix_ms = unix_ms
        session.begin_quality = session.last_quality = quality
        session.begin_mwh = session.last_mwh = mwh
        session.meter = self._meter_code()
        return session

    async def _settle(self, session, register_mwh, now_ms):
        off_ms = resume.off_time_ms(session, *self._clock.now())
        why = resume.refusal(session, self.filter.state, register_mwh,
                             session.meter == self._meter_code(), self._board.reset_cause, off_ms)
        gap_mwh = max(0, register_mwh - session.last_mwh)
        session.gap_mwh += gap_mwh
        self._started_ms = now_ms
        if not why:
            self.machine.resume(session.charged)
            await self._event("resume", now_ms, {
                "gap_mwh": gap_mwh, "off_ms": -1 if off_ms is None else off_ms})
            await self._checkpoint()
            return
        end_mwh, letter, read_ms = await self._final_reading()
        session.gap_mwh += max(0, end_mwh - register_mwh)
        await self._event("power_fail", now_ms, {"why": why})
        await self._complete(self._clock.unix_ms_at(read_ms), end_mwh, letter, "P", read_ms)
