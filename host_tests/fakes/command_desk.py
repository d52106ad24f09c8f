"""Commands before operations that only note what they are told, on time that passes by hand."""

import asyncio
import hashlib
import json
from binascii import hexlify

from evmeter.ledger.signer import SoftwareSigner
from evmeter.uplink import commands
from evmeter.uplink.commands import Commands
from fakes.clock import FakeClock
from fakes.memory_store import MemoryNvs
from fakes.world import Idle

NOW_S = 1_790_000_000
DEVICE = "demo-0001"


class Operator:
    """Who signs commands."""

    def __init__(self, secret=b"\x07"):
        self.signer = SoftwareSigner(bytes(32 - len(secret)) + secret, lambda n: bytes(range(n)))
        self.spki = self.signer.spki_hex()
        self.by = self.signer.key_id

    def sign(self, fields, counter, device=DEVICE):
        """The signed command as bytes."""
        text = json.dumps(dict(fields, dev=device, ctr=counter, by=self.by))[:-1].encode()
        signature = asyncio.run(self.signer.sign(hashlib.sha256(text).digest()))
        return text + b', "sg": "' + hexlify(signature) + b'"}'


def command(op="identify", name="c-1", **more):
    """A command's fields."""
    return dict({"v": 1, "id": name, "op": op, "args": {}, "exp": NOW_S + 60}, **more)


class _Bell:
    """asyncio.Event that tells whether somebody waits for it."""

    def __init__(self):
        self.rung = self.idle = False

    def set(self):
        self.rung = True

    def clear(self):
        self.rung = False

    async def wait(self):
        self.idle = True
        while not self.rung:
            await asyncio.sleep_ms(0)
        self.idle = False


class _Operations:
    ANY_TIME = ("identify", "resend", "time")
    UNSIGNED = "%s needs the signature of an enrolled operator key"

    def __init__(self):
        self.done = []
        self.error = None
        self.restart_due = False
        self.restart_count = 0
        self.reports = []
        self.refuse = ""

    def dangerous(self, op, args):
        return op in ("key_change", "update")

    def restarts(self, op, args):
        return op in ("reboot", "update")

    async def do(self, op, args, by):
        if self.error:
            raise self.error
        self.done.append((op, args, by))
        self.restart_due = op == "reboot"

    def check_wish(self, rev):
        if self.refuse:
            raise commands.CommandError(self.refuse)

    async def wish(self, rev, wished, by):
        if self.error:
            raise self.error
        self.done.append((rev, wished, by))

    def report(self, rev=0, why=""):
        self.reports.append((rev, why))

    async def restart(self):
        self.restart_due = False
        self.restart_count += 1


class Desk:
    """`send` gives messages one after the other and waits until all is done, whereupon it is
    NOW_S again; `done` is what the operations were told."""

    def __init__(self, operator=None, nvs=None, quality="I", **settings):
        self.clock = FakeClock(NOW_S * 1000, quality)
        self.nvs = nvs or MemoryNvs()
        self.operations = _Operations()
        self.done = self.operations.done
        self.answers = []
        keys = [operator.spki] if operator else []
        self.commands = Commands(DEVICE, dict({"keys": keys, "all_signed": False}, **settings),
                                 self.clock, self.nvs, Idle(), self.operations, self._answer)
        self._bell = self.commands._there = _Bell()

    def _answer(self, topic, text):
        assert topic == b"cmd/res"
        self.answers.append(json.loads(text))

    async def sleep_ms(self, ms):
        self.clock.advance(ms)
        await asyncio.sleep_ms(0)

    async def _send(self, messages, wish):
        task = asyncio.create_task(self.commands.run())
        while not self._bell.idle:
            await asyncio.sleep_ms(0)
        for message in messages:
            self.commands.take(message, wish)
        self._bell.idle = False
        while not self._bell.idle and not task.done():
            await asyncio.sleep_ms(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return

    def send(self, *messages, wish=False):
        """Texts, bytes or dicts; returns the answers to them."""
        kept, commands.asyncio = commands.asyncio, self
        del self.answers[:]
        try:
            asyncio.run(self._send([
                json.dumps(one).encode() if isinstance(one, dict) else one for one in messages],
                wish))
        finally:
            commands.asyncio = kept
            self.clock._unix_ms = NOW_S * 1000 - self.clock.mono_ms()
        return list(self.answers)

    def refused(self, message, wish=False):
        """Why a message is refused; nothing is done."""
        before = len(self.done)
        answers = self.send(message, wish=wish)
        assert len(self.done) == before, message
        if wish:
            return self.operations.reports[-1][1]
        assert len(answers) == 1 and not answers[0]["ok"], answers
        return answers[0]["err"]
