"""The records that the meter signs itself, kept unchanged beside ours; loaded where configured.

At each session's begin and end, once our own record is on flash, the meter is told to make its
record; its text and its public key become the audit entry "meter_record", which our key signs.
Nothing waits for it, and a record that the meter does not give is an entry that says why.
"""

import asyncio

from micropython import const

from evmeter.ledger.journal import JournalError
from evmeter.ledger.signer import SignerError
from evmeter.metering.reading import MeterError
from evmeter.monitoring import alarms as codes
from evmeter.system.log import log

_TRIES = const(3)
_RETRY_MS = const(10000)
_STEP_MS = const(100)
_MOST_DUE = const(8)
_MOST_ESCAPED = const(1700)  # bytes of the text in JSON, so that the entry fits a frame


class PassThrough:
    """`meter` is a SigningMeter (drivers/signing_meter.py); `edge` is to be told of each session's
    begin and end, `run` is the task."""

    def __init__(self, meter, ledger, clock, alarms):
        self._meter = meter
        self._ledger = ledger
        self._clock = clock
        self._alarms = alarms
        self._due = []
        self.pause = asyncio.sleep_ms  # a test lets its own time pass

    def edge(self, letter, sid, user):
        """Have a record made for the begin ("B") or end ("E") of a session."""
        if len(self._due) >= _MOST_DUE:
            self._due.pop(0)
        called = sid + " " + user["ID"] if user else sid
        self._due.append((letter, sid, called, self._clock.mono_ms()))

    async def run(self):
        """Make what is due, for ever."""
        while True:
            if not self._due:
                await self.pause(_STEP_MS)
                continue
            due = self._due.pop(0)
            fields = await self._record(due[0], due[2])
            fields["tx"] = due[0]
            while not await self._keep(due[1], due[3], fields):
                await self.pause(_RETRY_MS)

    async def _record(self, letter, called):
        """The entry's fields: the meter's record, or why there is none."""
        clock = self._clock
        for _ in range(_TRIES):
            try:
                if clock.quality == "S":  # the meter calls "synchronised" what it was told
                    unix_ms, _ = clock.now()
                    await self._meter.keep_time(unix_ms // 1000, clock.mono_ms() // 1000)
                text, spki = await self._meter.record(letter, called)
                if len(text) + text.count('"') + text.count("\\") > _MOST_ESCAPED:
                    raise MeterError("the meter's record is too long to be kept", "E")
                self._alarms.clear(codes.METER_RECORD)
                return {"meter_ocmf": text, "meter_spki": spki}
            except MeterError as error:
                why = str(error)
        self._alarms.raise_(codes.METER_RECORD, codes.WARNING, why)
        return {"why": why}

    async def _keep(self, sid, at_ms, fields):
        try:
            await self._ledger.log("meter_record", sid, at_ms, dict(fields))
            return True
        except (JournalError, SignerError) as error:
            log.error("the meter's record is not kept yet: %s", error)
            return False
