"""Commands from the backend: checked, worked on one a second, each answered. Loaded with the
first one.

    {"v": 1, "id": "c-17", "op": "resend", "args": {"from": 5, "to": 9}, "exp": 1790000300}

`id` is answered once; `exp` (Unix s) lies at most 10 minutes ahead. A dangerous one is signed by
an operator whose key is in the configuration, and has four fields more: `dev`, this device's id;
`ctr`, higher than in any command of that key before; `by`, the key's id; and, last, `sg`: the DER
in hex of an ECDSA signature (P-256, SHA-256) over the text before the comma that leads to it. The
counter is in the second store before anything is done.

A wish (cfg/set) has `rev` and `cfg` in place of `id`, `op` and `args`. It waits for the device, so
that it has no `exp` without a signature, and one at most 31 days ahead with one.

While the time is not known, an old command looks like a new one: only those that do no harm when
they come late are worked on.
"""

import asyncio
import hashlib
import json
from binascii import hexlify, unhexlify

from micropython import const

from evmeter.ledger import p256
from evmeter.ledger.journal import JournalError
from evmeter.ledger.signer import SignerError, der, key_id, point
from evmeter.ledger.signer import run as sliced
from evmeter.system.config import ConfigError, load
from evmeter.system.log import log

LONGEST = const(3584)  # bytes of a command
_MOST_WAITING = const(4)
_MOST_BYTES = const(4096)  # of those that wait
_EVERY_MS = const(1000)
_AHEAD_S = const(600)
_WISH_AHEAD_S = const(2678400)
_REMEMBERED = const(16)
_LONGEST_ID = const(36)
_HIGHEST = const(1 << 53)  # a counter may be a time in ms, and JSON's readers have doubles
_WHY_CHARS = const(300)
_DEFECT = "it failed here, by a defect: the audit log tells more"
_SIGNATURE = b', "sg": "'
_LAST = "cmd_id"  # in the second store: a restart must not forget what it came from
_COMMON = ("v", "ts", "tq", "exp", "dev", "ctr", "by", "sg")
_COMMAND = ("id", "op", "args")
_WISH = ("rev", "cfg")


class CommandError(ValueError):
    """The command is refused; the text says what is wrong with it and what is allowed."""


def _number(given, name, low, high):
    value = given.get(name)
    if type(value) is not int or not low <= value <= high:
        raise CommandError("%s is %r; allowed: a whole number from %d to %d"
                           % (name, value, low, high))
    return value


def _text(given, name, most):
    value = given.get(name)
    if (not isinstance(value, str) or not 0 < len(value) <= most
            or any(not " " < one <= "~" for one in value)):
        raise CommandError("%s is %r; allowed: 1 to %d characters without spaces"
                           % (name, value, most))
    return value


def read(payload):
    """The JSON object in `payload` (bytes) as a dict. Raises CommandError, ConfigError."""
    if len(payload) > LONGEST:
        raise CommandError("longer than %d bytes" % LONGEST)
    try:
        text = payload.decode()
    except ValueError:
        text = ""
    if len(text) != len(payload):
        raise CommandError("it is no text in ASCII")
    return load(text, "it")


def check(found, payload, device_id, wish=False):
    """Check the fields of a command or wish, `found` in `payload`; a signed one gets one more:
    `signed`, how many bytes the signature is over. Raises CommandError."""
    _number(found, "v", 1, 1)
    own = _WISH if wish else _COMMAND
    for name in found:
        if name not in _COMMON and name not in own:
            raise CommandError("unknown field %s" % repr(name)[1:-1])
    if wish:
        _number(found, "rev", 1, 0x7FFFFFFF)
    else:
        _text(found, "id", _LONGEST_ID)
        _text(found, "op", 16)
    body = found.setdefault("cfg" if wish else "args", {})
    if not isinstance(body, dict):
        raise CommandError("%s must be a JSON object" % own[-1])
    signed = any(name in found for name in ("ctr", "by", "sg"))
    if signed or not wish:
        _number(found, "exp", 0, _HIGHEST)
    if (signed or "dev" in found) and found.get("dev") != device_id:
        raise CommandError("it is for another device: dev is %r" % (found.get("dev"),))
    if signed:
        _number(found, "ctr", 1, _HIGHEST)
        _text(found, "by", 8)
        at = payload.rfind(_SIGNATURE)
        if (at < 0 or payload[-2:] != b'"}'
                or payload[at + len(_SIGNATURE) : -2] != _text(found, "sg", 144).encode()):
            raise CommandError('sg must come last, after a comma and a space: , "sg": "<hex>"}')
        found["signed"] = at


def numbers(text):
    """(r, s) of a signature's DER in lower-case hex. Raises CommandError."""
    try:
        data = unhexlify(text)
        at = 4 + data[3]
        if at > 37 or data[at + 1] > 33:
            raise ValueError("long")
        r, s = [int.from_bytes(part, "big") for part in (data[4:at], data[at + 2 :])]
        if hexlify(der(r, s)).decode() == text:  # there is one way to write a signature
            return r, s
    except (ValueError, IndexError, OverflowError) as error:
        log.debug("commands: %s", error)
    raise CommandError("sg is no signature")


class Commands:
    """`take` queues what comes, `run` works on it for ever.

    `keys` are the operators' public keys (SubjectPublicKeyInfo in hex); `operations` does what is
    asked (system/operations.py); `answer(topic, text)` sends an answer; `quiet` is as in Ledger.
    """

    def __init__(self, device_id, settings, clock, nvs, quiet, operations, answer):
        self._device_id = device_id
        self._keys = settings["keys"]
        self._all_signed = settings["all_signed"]
        self._clock = clock
        self._nvs = nvs
        self._quiet = quiet
        self._operations = operations
        self._answer = answer
        self._waiting = []
        self._there = asyncio.Event()
        self._dropped = 0
        self._done = [self._kept_id()]
        self.refused = 0

    def _kept_id(self):
        buffer = bytearray(_LONGEST_ID)
        try:
            return bytes(buffer[: self._nvs.get_blob(_LAST, buffer)]).decode()
        except (OSError, ValueError):  # there is none
            return ""

    def take(self, payload, wish=False):
        """Queue a command or a wish; where too many wait already, it is refused."""
        held = sum([len(other) for other, _ in self._waiting])
        if len(self._waiting) >= _MOST_WAITING or held + len(payload) > _MOST_BYTES:
            self._dropped += 1
            return
        self._waiting.append((bytes(payload[: LONGEST + 1]), wish))
        self._there.set()

    async def run(self):
        """Work on what was taken, at most one a second."""
        while True:
            while not self._waiting:
                self._there.clear()
                await self._there.wait()
            began_ms = self._clock.mono_ms()
            payload, wish = self._waiting.pop(0)
            await self._work(payload, wish)
            payload = None
            if self._dropped:
                self._tell({}, None, "%d more were refused: one a second is "
                           "worked on, %d may wait" % (self._dropped, _MOST_WAITING))
                self._dropped = 0
            while self._clock.mono_ms() - began_ms < _EVERY_MS:
                await asyncio.sleep_ms(50)

    async def _work(self, payload, wish):
        command = {}
        result, why = None, _DEFECT
        try:
            command = read(payload)
            check(command, payload, self._device_id, wish)
            if wish:
                self._operations.check_wish(command["rev"])
            by = await self._admit(command, payload, wish)
            payload = None
            if wish:
                await self._operations.wish(command["rev"], command["cfg"], by)
            else:
                result = await self._operations.do(command["op"], command["args"], by)
            why = ""
        except (ValueError, RuntimeError, MemoryError, OSError, ConfigError,
                JournalError, SignerError) as error:
            why = str(error)[:_WHY_CHARS] or "refused"
            self.refused += 1
            log.warning("command refused: %s", why)
        finally:  # whoever asked is told, also where the task dies of it
            self._reply(command, wish, result, why)
        if self._operations.restart_due:
            try:
                await self._operations.restart()
            except (OSError, JournalError, SignerError) as error:
                log.error("no restart: %s", error)

    def _reply(self, command, wish, result, why):
        if not wish:
            self._tell(command, result, why)
        elif not self._operations.restart_due:
            rev = command.get("rev")
            self._operations.report(rev if type(rev) is int else 0, why)

    def _tell(self, command, result, why):
        unix_ms, quality = self._clock.now()
        told = {"v": 1, "ts": unix_ms // 1000, "tq": quality, "ok": not why}
        for name in ("id", "op"):
            value = command.get(name)
            told[name] = value[:_LONGEST_ID] if isinstance(value, str) else ""
        if why:
            told["err"] = why
        else:
            told["res"] = result or {}
        self._answer(b"cmd/res", json.dumps(told))

    async def _admit(self, command, payload, wish):
        """Whose command it is ("" where it is not signed), if it may be worked on; it will not be
        a second time. Raises CommandError, OSError."""
        name, operations = command.get("op"), self._operations
        if not wish and command["id"] in self._done:
            raise CommandError("repeated: this id was there before")
        if "exp" in command and (self._clock.quality != "U" or name not in operations.ANY_TIME):
            self._check_time(command["exp"], _WISH_AHEAD_S if wish else _AHEAD_S)
        by = ""
        if "signed" in command:
            by = await self._signer(command, payload)
        elif self._all_signed or (not wish and operations.dangerous(name, command["args"])):
            raise CommandError(operations.UNSIGNED % (name or "it"))
        if not wish:
            self._done.append(command["id"])
            del self._done[:-_REMEMBERED]
            if operations.restarts(name, command["args"]):
                async with self._quiet:
                    self._nvs.set_blob(_LAST, command["id"].encode())
                    self._nvs.commit()
        return by

    def _check_time(self, exp_s, ahead_s):
        if self._clock.quality == "U":
            raise CommandError("the time is not known here; allowed: %s"
                               % ", ".join(self._operations.ANY_TIME))
        left_s = exp_s - self._clock.now()[0] // 1000
        if left_s < 0:
            raise CommandError("expired %d s ago by this device's clock" % -left_s)
        if left_s > ahead_s:
            raise CommandError("exp is %d s ahead by this device's clock; allowed: %d"
                               % (left_s, ahead_s))

    async def _signer(self, command, payload):
        """The id of the key that signed; its counter is used up. Raises CommandError, OSError."""
        by, counter = command["by"], command["ctr"]
        found = [spki for spki in self._keys if key_id(spki) == by]
        if not found:
            raise CommandError("key %s is not enrolled" % by)
        self._check_counter(by, counter)
        digest = hashlib.sha256(memoryview(payload)[: command["signed"]]).digest()
        r, s = numbers(command["sg"])
        x, y = point(found[0])
        if not await sliced(p256.verify(x, y, digest, r, s)):
            raise CommandError("the signature does not belong to it")
        async with self._quiet:
            self._nvs.set_blob("op_" + by, counter.to_bytes(8, "little"))
            self._nvs.commit()
        return by

    def _check_counter(self, by, counter):
        buffer = bytearray(8)
        try:
            self._nvs.get_blob("op_" + by, buffer)
        except OSError:  # the first one
            return
        last = int.from_bytes(buffer, "little")
        if counter <= last:
            raise CommandError("ctr is %d; allowed: more than %d" % (counter, last))
