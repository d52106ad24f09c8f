"""What operations and the trial of a configuration see of the app, with power cuts between the
durable steps."""

import asyncio
import json

from evmeter.system import config, operations, trial
from evmeter.system.operations import Operations
from fakes.clock import FakeClock
from fakes.memory_store import MemoryNvs, Power
from fakes.world import Idle

NOW_MS = 1_790_000_000_000
GIVEN = {"id": "demo-0001", "rev": 5, "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
         "mqtt": {"host": "broker.example", "password": "geheim-17"}}


class Reset(Exception):
    """The board restarted."""


class Anything:
    """An object with the given attributes."""

    def __init__(self, **attributes):
        for name in attributes:
            setattr(self, name, attributes[name])


class FakeBoard:
    """What outlives a restart: second store, configuration, audit log."""

    name = "fake"
    resets = 0

    def __init__(self):
        self.power = Power()
        self.nvs = MemoryNvs(self.power)
        self.text = json.dumps(GIVEN)
        self.old = None
        self.log = []

    def read_config(self):
        return self.text

    def write_config(self, text):
        self.power.use()
        self.old = self.text
        self.power.use()
        self.text = text

    def restore_config(self):
        self.power.use()
        if self.old is None:
            raise OSError(2)
        self.text, self.old = self.old, None

    def reset(self):
        raise Reset()


class _Keeper:
    def __init__(self):
        self.session = None
        self.is_engaged = False
        self.booted = True
        self.followed = 0
        self.orders = []

    def engaged(self):
        return self.is_engaged

    def follow(self):
        self.followed += 1

    async def order(self, name, given):
        self.orders.append((name, given))


class _Clock(FakeClock):
    source = ""

    def offer(self, unix_ms, uncertainty_ms, source):
        if self.quality != "U":
            return False
        self._unix_ms = unix_ms - self.mono_ms()
        self.quality = "I"
        self.uncertainty_ms = uncertainty_ms
        return True


class _Uplink:
    online = False
    reason = "no connection"

    def __init__(self):
        self.answers = []
        self.resent = None
        self.wishes_asked = 0

    def drained(self):
        return True

    def answer(self, topic, text, retain=False):
        self.answers.append((topic, json.loads("".join(text()) if callable(text) else text),
                             retain))

    def status_changed(self):
        self.answers.append("status")

    def resend(self, first, last):
        self.resent = (first, last)

    def ask_wish(self):
        self.wishes_asked += 1


class FakeApp:
    """An app on a board, as after a boot."""

    def __init__(self, board=None, quality="I"):
        self.board = board or FakeBoard()
        self.config = config.parse(self.board.read_config())
        self.clock = _Clock(NOW_MS, quality)
        self.keeper = _Keeper()
        self.uplink = _Uplink()
        self.ledger = self
        self.poll = Anything(bus_idle=Idle())
        self.journal = Anything(ready=True, oldest=lambda: 40, next_seq=50)
        self.monitor = Anything(number=3, told_ms=0)
        self.signer = Anything(key_id="a1b2c3d4")
        self.alarms = Anything(codes=lambda: ["METER"])
        self.pilot_pwm = self.trial = None
        self.boots = 7
        self.restful = True
        self.is_busy = False
        self.limits = []
        self.operations = Operations(self)

    # -- of the ledger --

    async def log(self, name, sid, at_ms, fields):
        self.board.power.use()
        self.board.log.append((name, dict(fields)))
        self.board.power.use()
        return len(self.board.log)

    def busy(self):
        return self.is_busy

    def can_sign(self):
        return False

    # -- of the app --

    def at_rest(self):
        return self.restful

    def restart(self):
        self.board.reset()

    def limit(self, ma):
        self.limits.append(ma)

    def updater(self):
        raise ValueError("this firmware lies where no other has a place beside it")

    # -- for the tests --

    async def sleep_ms(self, ms):
        self.clock.advance(ms)
        await asyncio.sleep_ms(0)

    def run(self, coroutine):
        """What it returns, on time that passes by hand."""
        operations.asyncio = self
        try:
            return asyncio.run(coroutine)
        finally:
            operations.asyncio = asyncio

    def do(self, op, args=None, by=""):
        """What the operation answers."""
        return self.run(self.operations.do(op, args or {}, by))

    def boot(self):
        """The app after a restart of the board, with its trial where there is one."""
        app = FakeApp(self.board)
        if trial.stored(self.board.nvs, trial.MARK):
            app.trial = trial.Trial(self.board, app.config["rev"])
        return app
