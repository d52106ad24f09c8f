"""A session keeper over fakes, with time that passes when the test says so."""

import asyncio
import json

from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal
from evmeter.ledger.ledger import Ledger, account
from evmeter.monitoring.alarms import Alarms
from evmeter.session.keeper import SessionKeeper
from fakes.world import FakeClock, FakeMeter, FakeSigner, Idle

PILOT_A = (12000, 12000, False)
PILOT_B = (9000, -12000, True)
PILOT_C = (6000, -12000, True)
START_UNIX_MS = 1_790_000_000_000
_CONFIG = {"id": "demo-0001", "meter": {"p_max_w": 11000},
           "session": {"finished_after_s": 5, "checkpoint_s": 60}}
_BUFFER = bytearray(frames.MAX_PAYLOAD)


def _no_time(_ms):
    return asyncio.sleep_ms(0)


class Device:
    """A device over a board that outlives it; `run` lets time and the tasks go on."""

    def __init__(self, board, unix_ms=START_UNIX_MS, register_mwh=1_000_000, quality="I",
                 serial="21034567", signer=True):
        self.board = board
        self.clock = FakeClock(unix_ms, quality)
        self.meter = FakeMeter(self.clock, register_mwh, serial)
        self.alarms = Alarms(self.clock)
        self.journal = Journal(board.store, board.nvs, account)
        self.journal.open()
        ledger = Ledger(self.journal, FakeSigner() if signer else None, self.clock, Idle(),
                        self._identity)
        self.keeper = SessionKeeper(_CONFIG, self.clock, self.meter, ledger, self.journal,
                                    self.alarms, board)
        self.keeper.pause = _no_time
        self.pilot = PILOT_A

    def _identity(self):
        return {"MS": self.meter.serial}, 1000, "meter"

    async def _run(self, ms, power_w):
        task = asyncio.create_task(self.keeper.run())
        for _ in range(ms // 50):
            self.clock.advance(50)
            self.meter.register_mwh += power_w * 50 // 3600
            self.keeper.window(*self.pilot)
            for _ in range(6):
                await asyncio.sleep_ms(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return

    def run(self, ms, pilot=None, power_w=0):
        if pilot:
            self.pilot = pilot
        asyncio.run(self._run(ms, power_w))

    def messages(self):
        found = []
        for seq in range(1, self.journal.next_seq):
            kind, length = self.journal.read(seq, _BUFFER)
            message = json.loads(bytes(_BUFFER[:length]))
            assert message["seq"] == seq
            found.append((message.get("ev") or message["kind"], message))
        return found

    def names(self):
        return [name for name, _ in self.messages()]

    def balance(self):
        """Energy of sessions and outside of them, as the messages declare it."""
        sessions = sum(m["energy_mwh"] for name, m in self.messages() if name == "close")
        outside = sum(m.get("out_mwh", 0) for _, m in self.messages())
        return sessions + outside
