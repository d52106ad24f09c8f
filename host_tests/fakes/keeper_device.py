"""A session keeper over fakes, with time that passes when the test says so."""

import asyncio
import gc
import json
import sys

from evmeter.ledger.journal import Journal
from evmeter.ledger.ledger import Ledger, account, newest_unix_ms
from evmeter.monitoring.alarms import Alarms
from evmeter.session import recovery
from evmeter.session.keeper import SessionKeeper
from fakes.clock import FakeClock
from fakes.world import FakeMeter, FakeSigner, Idle

PILOT_A = (12000, 12000, False)
PILOT_B = (9000, -12000, True)
PILOT_C = (6000, -12000, True)
START_UNIX_MS = 1_790_000_000_000
_CONFIG = {"id": "demo-0001", "meter": {"p_max_w": 11000},
           "session": {"finished_after_s": 5, "checkpoint_s": 60}}


def _no_time(_ms):
    return asyncio.sleep_ms(0)


class Device:
    """A device over a board that outlives it; `run` lets time and the tasks go on."""

    def __init__(self, board, unix_ms=START_UNIX_MS, register_mwh=1_000_000, quality="I",
                 serial="21034567", signer=True, keeper=SessionKeeper):
        self.board = board
        if board.device:  # the life before is over, and the heap is small
            board.device.keeper = board.device.journal = board.device.alarms = None
        board.device = self
        if sys.implementation.name == "micropython":
            gc.collect()
        # The keeper drops it after each boot; to compile it again would cost more than a boot.
        sys.modules["evmeter.session"].recovery = recovery
        sys.modules["evmeter.session.recovery"] = recovery
        self.clock = FakeClock(unix_ms, quality)
        self.meter = FakeMeter(self.clock, register_mwh, serial)
        self.alarms = Alarms(self.clock)
        self.journal = Journal(board.store, board.nvs, account)
        self.journal.open()
        self.clock.raise_floor(newest_unix_ms(self.journal))
        ledger = Ledger(self.journal, FakeSigner() if signer else None, self.clock, Idle(),
                        self._identity)
        self.keeper = keeper(_CONFIG, self.clock, self.meter, ledger, self.journal,
                             self.alarms, board)
        self.keeper.sleep_ms = _no_time
        self._beside = []
        self.pilot = PILOT_A

    def _identity(self):
        return {"MS": self.meter.serial}, 1000, "meter"

    def also(self, coroutine):
        """Let something else run beside the keeper."""
        self._beside.append(asyncio.create_task(coroutine))

    async def _live(self, steps):
        task = asyncio.create_task(self.keeper.run())
        for ms, pilot, power_w, hook in steps:
            self.pilot = pilot or self.pilot
            if hook:
                hook(self)
            for _ in range(ms // 50):
                self.clock.advance(50)
                self.meter.register_mwh += power_w * 50 // 3600
                self.keeper.window(*self.pilot)
                if self.clock.mono_ms() % 1000 == 0:
                    if self.meter.answers:
                        self.keeper.reading(self.meter.latest)
                    self.keeper.follow()
                for _ in range(6):
                    await asyncio.sleep_ms(0)
                if task.done():
                    return await self._end(task)
        task.cancel()
        return await self._end(task)

    async def _end(self, task):
        try:
            await task
        except asyncio.CancelledError:
            return None
        except Exception as error:
            return error

    def live(self, steps):
        """One stretch of life: rows (ms, pilot or None, power in W, function of the device or
        None). Returns the exception that ended the keeper's task, or None."""
        return asyncio.run(self._live(steps))

    def run(self, ms, pilot=None, power_w=0):
        error = self.live(((ms, pilot, power_w, None),))
        if error:
            raise error

    def each(self):
        """(event's name or record's kind, message) of each frame, one at a time: the heap is
        small."""
        for seq in range(1, self.journal.next_seq):
            message = json.loads(bytes(self.journal.view(seq)[1]))
            assert message["seq"] == seq
            yield message.get("ev") or message["kind"], message

    def messages(self):
        return list(self.each())

    def names(self):
        return [name for name, _ in self.each()]

    def balance(self):
        """Energy of sessions and outside of them, as the messages declare it."""
        total = 0
        for name, message in self.each():
            total += message.get("out_mwh", 0)
            if name == "complete":
                total += message["reg_mwh"] - message["begin_mwh"] - message["jump_mwh"]
        return total
