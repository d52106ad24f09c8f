"""When sessions begin and end: what the rules say, turned into readings and records."""

import asyncio

from micropython import const

from evmeter.ledger.ocmf import quantise
from evmeter.monitoring import alarms as codes
from evmeter.session import machine as rules
from evmeter.session.open_session import OpenSession
from evmeter.session.progress import Progress
from evmeter.session.session import Session, pack_end
from evmeter.system.forget import forget

_RETRY_MS = const(10000)
_END_RETRY_MS = const(1000)
_PROMPT_MS = const(2000)  # a reading later than this after the edge is said to be late
_SWAP_MS = const(5000)  # another car draws nothing to speak of before that
_BILLABLE_STEPS = const(100)
_LEAST_FREE_PERCENT = const(10)
_MOST_QUEUED = const(64)


class SessionKeeper(OpenSession):
    """Begins and ends sessions. `meter` is a MeterPoll; the board's `permit(bool)` is the optional
    output to the charge controller. `alive`: None or called wherever it waits."""

    def __init__(self, config, clock, meter, ledger, journal, alarms, board):
        super().__init__(config, clock, meter, ledger, journal, board)
        self._alarms = alarms
        self._queue = []
        self.ended_unix_ms = 0
        self.refused = ""
        self.on_edge = None  # called with ("B" or "E", session id, user) once the record is kept
        self.alive = None
        self.sleep_ms = asyncio.sleep_ms  # a test lets its own time pass

    def pause(self, ms):
        """To be awaited."""
        if self.alive:
            self.alive()
        return self.sleep_ms(ms)

    # -- the pilot side: called every window, never waits --

    def window(self, high_mv, low_mv, pwm, duty_permille=None):
        """Take one pilot window, as ControlPilot.sample gives it."""
        state = self.filter
        if duty_permille != self.duty_permille:
            self.duty_permille = duty_permille
            self.changed()
        if state.window(high_mv, low_mv, pwm, self.clock.mono_ms()):
            self.changed()
        if not self.booted:
            return  # the rules wait until it is settled what was open before
        if state.diode_fault and not self.machine.is_open:
            return  # a test plug, or tampering: no session begins
        if len(self._queue) < _MOST_QUEUED:  # else a later window makes it happen
            # A state counts for as long as windows showed it.
            self.machine.step(state.state, state.pwm, state.since_ms, state.seen_ms, self._queue)

    def finished(self, mono_ms):
        """The power says that the car is done."""
        self._queue.append((rules.FINISHED, mono_ms))

    def meter_event(self, name, fields):
        """As OpenSession; where energy is not known for it, an alarm tells."""
        if fields["diff_mwh"] is None:
            swapped = fields["cause"].startswith("meter exchanged")
            self._alarms.happened(
                codes.METER_SWAPPED if swapped else codes.METER_IMPLAUSIBLE, codes.CRITICAL,
                "%s: from %s to %d mWh" % (fields["cause"], fields["old_mwh"], fields["new_mwh"]))
        return super().meter_event(name, fields)

    def at_rest(self):
        """Whether nothing that happened waits to be written."""
        return not (self.booted and (self._queue or self.untold()))

    def engaged(self):
        """Whether a session is open, or is being opened."""
        return bool(self.session or self.journal.open_seq
                    or (self.machine.is_open and not self.refused))

    # -- the slow side --

    async def run(self):
        """Settle what was open before the boot, then follow the rules for ever."""
        if not self.booted:
            from evmeter.session import recovery

            await recovery.settle(self)
            self.booted = True
            forget("evmeter.session", "recovery")
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
        while (not self._queue and not self.untold()
               and self.clock.mono_ms() < deadline_ms):
            await self.pause(50)
            if self.session and self.checkpoint_due():
                await self.checkpoint()

    async def _idle(self):
        if self.machine.is_open and not self.session and self.refused:
            await self._open(self.clock.mono_ms())

    async def _handle(self, what, at_ms):
        if what == rules.OPEN:
            self.clock.hold()
            try:
                await self._open(at_ms)
            finally:
                self.clock.release()
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
        self.changed()

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
        late_ms = 0
        if not self.session:  # an attempt that died after the record goes on with the rest
            refusal = self._refusal()
            if not refusal:
                mwh, letter, read_ms = await self.meter.edge_reading()
                if mwh is None:
                    refusal = codes.METER_LOST, "no believed reading (%s)" % letter
                elif not self.meter.serial:
                    refusal = codes.METER_LOST, "no serial number: configure meter.serial"
            if refusal:
                self._refuse(refusal[0], refusal[1])
                return
            await self._begin(at_ms, mwh, letter, read_ms)
            late_ms = read_ms - at_ms
        self._alarms.clear(codes.SESSION_REFUSED)
        if self.permit:
            self.permit(True)
        await self.checkpoint()
        fields = self.split.label() if self.split else {}
        if late_ms > _PROMPT_MS:
            fields["late_ms"] = late_ms
        await self.event(rules.OPEN, at_ms, fields)
        user = self._user
        if user:  # it came while the begin record was signed
            await self.event("user", self.clock.mono_ms(), {"user": user})
            self.session.user = user
            self._user = None

    async def _begin(self, at_ms, mwh, letter, read_ms):
        await self.tell_meter_events()
        late = read_ms - at_ms > _PROMPT_MS
        begin_mwh = quantise(mwh, self.step_mwh)
        session = Session()
        session.meter = self.meter_code()
        session.begin_mwh = session.last_mwh = begin_mwh
        # A session that follows a power failure at once must not begin before that one's end.
        begin_unix_ms = self.clock.unix_ms_at(read_ms if late else at_ms)
        session.begin_unix_ms = max(begin_unix_ms, self.ended_unix_ms)
        session.begin_quality = self.clock.quality
        reading = (session.begin_unix_ms, session.begin_quality, "B", begin_mwh, "", letter)
        ordered = self._user
        user = ordered if self.clock.mono_ms() <= self._user_until_ms else None
        progress, split = Progress(at_ms), None
        if self.tariff:
            split = self.splits.Split(self.tariff, session.begin_unix_ms, session.begin_quality,
                                      begin_mwh)
            if session.begin_unix_ms != begin_unix_ms:
                split.doubt("clock behind the record before")
        session.begin_seq, session.page, self.sid = await self.ledger.begin(
            reading, self.device_id, self.out_mwh(begin_mwh), user)
        # There is a record: no call from here on, until all is known that belongs to it.
        session.user = user
        if self._user is ordered:  # else another one came while the record was signed
            self._user = None
        self.progress = progress
        self.split = split
        self.started_ms = at_ms
        self._steps = self.clock.steps
        self.refused = ""
        self.session = session
        if self.on_edge:
            self.on_edge("B", self.sid, user)

    def _refuse(self, code, text):
        if not self.refused:
            self._alarms.raise_(code, codes.CRITICAL, text)
            self._alarms.raise_(codes.SESSION_REFUSED, codes.CRITICAL, text)
            if self.permit:
                self.permit(False)
        self.refused = text

    # -- end --

    def _swapped(self, now_ms):
        """Whether the next car has been there for so long that energy may be its."""
        for what, at_ms in self._queue[1:]:
            if what == rules.OPEN and now_ms - at_ms > _SWAP_MS:
                return True
        return False

    async def final_reading(self):
        """(Register in mWh, OCMF letter, ms since boot) of the end. It waits for the meter, for as
        long as no other car's energy can be in its register; then the newest one from before
        stands in, with the letter that says why (S where the meter answers, but too late)."""
        while True:
            mwh, letter, read_ms = await self.meter.edge_reading()
            if self._swapped(read_ms):
                end_mwh = self.session.last_mwh
                if self.split and self.split.readings:
                    end_mwh = max(end_mwh, self.split.readings[-1][3])
                return end_mwh, "S" if letter == "G" else letter, read_ms
            if mwh is not None:
                self._alarms.clear(codes.METER_LOST)
                await self.tell_meter_events()
                return quantise(mwh, self.step_mwh), letter, read_ms
            self._alarms.raise_(codes.METER_LOST, codes.CRITICAL,
                                "no end reading (%s)" % letter)
            await self.pause(_END_RETRY_MS)

    async def _close(self, at_ms, tx):
        self.end_at(at_ms)  # what the register does from here on may be another car's
        end_mwh, letter, read_ms = await self.final_reading()
        late_ms = read_ms - at_ms if letter == "G" else 0
        end_unix_ms = self.clock.unix_ms_at(read_ms if late_ms > _PROMPT_MS else at_ms)
        if tx == "E" and self.session.stop:
            tx = self.session.stop
        await self.complete(end_unix_ms, end_mwh, letter, tx, at_ms, late_ms)

    async def complete(self, end_unix_ms, end_mwh, letter, tx, at_ms, late_ms=0):
        """Write the complete record and the closing event; the clock is not set meanwhile."""
        self.clock.hold()
        try:
            await self._complete(end_unix_ms, end_mwh, letter, tx, at_ms, late_ms)
        finally:
            self.clock.release()

    async def _complete(self, end_unix_ms, end_mwh, letter, tx, at_ms, late_ms):
        session = self.session
        # Neither a late begin reading nor a clock that was set may turn time back in a record.
        end_unix_ms = max(end_unix_ms, session.begin_unix_ms)
        await self.tell(True)
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
                    and energy_mwh >= _BILLABLE_STEPS * self.step_mwh)
        errors = "" if letter == "G" else "E"
        if session.stepped or self.clock.steps != self._steps:
            errors += "t"
        readings = (
            (session.begin_unix_ms, session.begin_quality, "B", session.begin_mwh, "", "G"),
        ) + changes + (
            (end_unix_ms, self.clock.quality, tx, end_mwh, errors, letter),
        )
        if self.journal.open_seq:  # not yet written by an attempt that died afterwards
            await self.ledger.complete(self.sid, readings, session, billable, fields.get("split"))
        self.ended_unix_ms = end_unix_ms
        fields.update({
            "begin_mwh": session.begin_mwh, "end_mwh": end_mwh, "gap_mwh": session.gap_mwh,
            "energy_mwh": energy_mwh, "tx": tx, "dur_s": session.duration_s,
            "dur_pm_s": session.duration_pm_s, "st": letter, "bill": 1 if billable else 0,
            "late_ms": late_ms if late_ms > _PROMPT_MS else 0})
        await self.ledger.event(rules.CLOSE, self.sid, at_ms, fields)
        if self.on_edge:
            self.on_edge("E", self.sid, session.user)
        self.session = self.split = self.progress = None
        self.sid = ""
        self.board.rtc_memory(b"")
        await self.save_end()

    async def save_end(self):
        """No session is open; the next one must not begin before the last one's end."""
        await self.ledger.save("session", pack_end(self.ended_unix_ms))
