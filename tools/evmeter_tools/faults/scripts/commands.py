"""An attacker who holds the broker: he has seen every signed command, and changes, cuts, splices,
repeats and delays them. Nothing of it may be done.

On both interpreters; as a program: commands.py EVERY [WRONG], every so manieth bit flipped, with a
wrong design in place of the right one. Prints one line of JSON.
"""

import json
import random
import sys

from evmeter.uplink import commands
from evmeter.uplink.commands import CommandError, Commands
from fakes.command_desk import DEVICE, NOW_S, Desk, Operator, command
from fakes.memory_store import MemoryNvs, Power, PowerCut

_OTHER_DEVICE = "demo-0002"
_SEEN = 12
_SPLICES = 60
_FLOOD = 1000


class Court:
    """One device after another on one second store; `attack` notes what was done that must not."""

    def __init__(self):
        self.operator = Operator()
        self.stranger = Operator(b"\x09")
        self.nvs = MemoryNvs()
        self.counter = 1000
        self.desk = None
        self.trials = 0
        self.texts = []
        self.counts = {}
        self.boot()

    def boot(self, nvs=None, quality="I"):
        self.desk = Desk(self.operator, nvs or self.nvs, quality)
        return self.desk

    def make(self, op="update", signer=None, device=DEVICE, **fields):
        """A signed command that was never sent."""
        self.counter += 1
        fields = dict(command(op, "s-%d" % self.counter, args={"n": self.counter}), **fields)
        return (signer or self.operator).sign(fields, self.counter, device)

    def wrong(self, text):
        if len(self.texts) < 20:
            self.texts.append(text)

    def attack(self, kind, text):
        self.trials += 1
        self.counts[kind] = self.counts.get(kind, 0) + 1
        desk = self.desk
        before = len(desk.done)
        desk.send(text)
        if len(desk.done) > before:
            self.wrong("%s: done: %s" % (kind, text[-200:]))

    def order(self, text):
        """What the operator sends is done, once."""
        self.trials += 1
        before = len(self.desk.done)
        self.desk.send(text)
        if len(self.desk.done) != before + 1:
            self.wrong("an order was not done: %s" % text)


def _changed(court, every):
    """Each bit flipped, each byte the last one, of commands that would be done as they are."""
    for op in ("update", "key_change"):
        good = court.make(op)
        for bit in range(random.randrange(every), 8 * len(good), every):
            data = bytearray(good)
            data[bit >> 3] ^= 1 << (bit & 7)
            court.attack("bit flipped", bytes(data))
        for length in range(0, len(good), 1 + every // 8):
            court.attack("cut short", good[:length])
            if length != len(good) - 2:  # that would make it whole
                court.attack("cut short and closed", good[:length] + b'"}')
        court.order(good)
    plain = json.dumps(command("resend", "p-1", args={"from": 5, "to": {"a": [1, "}"]}})).encode()
    for length in range(len(plain)):
        court.attack("cut short, unsigned", plain[:length])


def _repeated(court):
    """What was done is not done again: at once, after many others, after a restart."""
    seen = []
    for _ in range(_SEEN):
        seen.append(court.make(("update", "reboot", "identify")[random.randrange(3)]))
        court.order(seen[-1])
    for quality in ("I", "U"):
        for text in seen:
            court.attack("repeated", text)
        court.boot(quality=quality)  # it has forgotten which ids it has seen
        for text in seen:
            court.attack("repeated after a restart", text)
    court.boot()
    late = court.make()
    court.order(court.make())
    court.attack("an older counter", late)
    return seen


def _spliced(court, seen):
    """Pieces of commands put together; fields put in before or behind what is signed."""
    fresh = [court.make(op) for op in ("update", "key_change", "update")]
    pieces = seen + fresh
    for _ in range(_SPLICES):
        one, other = (pieces[random.randrange(len(pieces))] for _ in range(2))
        at, to = random.randrange(len(one)), random.randrange(len(other))
        if one[:at] + other[to:] not in fresh:
            court.attack("spliced", one[:at] + other[to:])
    for text in fresh:
        head, _, tail = text.rpartition(b', "sg"')
        for more in (b', "op": "reboot"', b', "x": 1', b', "args": {}'):
            court.attack("a field put in", head + more + b', "sg"' + tail)
            court.attack("a field put in", text[:-1] + more + b"}")
            court.attack("a field put in", b"{" + more[2:] + b", " + text[1:])
    for at, text in enumerate(fresh):
        court.attack("another's signature", text.rpartition(b', "sg"')[0]
                     + b', "sg"' + fresh[at - 1].rpartition(b', "sg"')[2])


def _misdirected(court):
    """Of another device, another key, another time; by a device that does not know the time."""
    court.attack("another device", court.make(device=_OTHER_DEVICE))
    text = court.make(device=_OTHER_DEVICE)
    court.attack("another device", text.replace(_OTHER_DEVICE.encode(), DEVICE.encode()))
    court.attack("a key that is not enrolled", court.make(signer=court.stranger))
    text = court.make(signer=court.stranger)
    court.attack("another name", text.replace(court.stranger.by.encode(),
                                              court.operator.by.encode()))
    for exp in (0, NOW_S - 1, NOW_S + 601, NOW_S + (1 << 31), 1 << 53):
        court.attack("another time", court.make(exp=exp))
    for op in ("update", "key_change"):
        court.attack("unsigned", json.dumps(command(op, "u-" + op)).encode())
    court.boot(quality="U")
    court.attack("time not known", court.make())
    court.boot()


def _cut(court):
    """The power goes at each step of the second store: no command is done twice."""
    for step in range(16):
        left = step // 2
        nvs = MemoryNvs(Power())
        text = court.make(("update", "key_change")[step % 2])
        desk = court.boot(nvs)
        nvs._power.left = left
        done = 0
        try:
            desk.send(text)
        except PowerCut:
            court.counts["power cuts that struck"] = court.counts.get(
                "power cuts that struck", 0) + 1
        nvs._power.restore()
        done += len(desk.done)
        again = court.boot(nvs)
        again.send(text)
        done += len(again.done)
        court.trials += 1
        court.counts["power cut"] = court.counts.get("power cut", 0) + 1
        if done > 1:
            court.wrong("done twice, where the power went after %d steps" % left)
    court.boot()


def _flood(court):
    """A thousand at once: not more than one a second is done."""
    desk = court.boot()
    begun_ms = desk.clock.mono_ms()
    desk.send(*[command(name="f-%d" % number) for number in range(_FLOOD)])
    court.trials += _FLOOD
    court.counts["flood"] = _FLOOD
    if len(desk.done) * 1000 > desk.clock.mono_ms() - begun_ms + 1000 or not desk.done:
        court.wrong("%d done in %d ms" % (len(desk.done), desk.clock.mono_ms() - begun_ms))


def _any_counter(self, by, counter):
    return


def _any_time(self, exp_s, ahead_s):
    return


async def _any_signature(generator):
    for _ in generator:
        continue
    return True


def _any_device(found, payload, device_id, wish=False):
    _CHECK(found, payload, found.get("dev", device_id), wish)


def _any_end(text, what):
    """MicroPython's json takes an object that is cut short; so does this, on both."""
    for end in ("", "}", '"}', "}}", ']}}', '"}]}}', "]}]}}"):
        try:
            found = json.loads(text + end)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    raise CommandError("no JSON")


async def _counts_later(self, command_, payload):
    kept = self._nvs.set_blob
    later = []
    self._nvs.set_blob = lambda key, value: later.append((key, value))
    try:
        by = await _SIGNER(self, command_, payload)
    finally:
        self._nvs.set_blob = kept
    right = self._operations.do

    async def do(*args):
        self._operations.do = right
        await right(*args)
        for key, value in later:
            kept(key, value)

    self._operations.do = do
    return by


_CHECK = commands.check
_SIGNER = Commands._signer
# name -> (where, attribute, what is put there)
WRONG = {
    "a device that keeps no counter": (Commands, "_check_counter", _any_counter),
    "a counter that is kept after the work": (Commands, "_signer", _counts_later),
    "commands that never expire": (Commands, "_check_time", _any_time),
    "a signature's form is enough": (commands, "sliced", _any_signature),
    "commands of any device": (commands, "check", _any_device),
    "what is cut short is taken": (commands, "load", _any_end),
}


def run(every, wrong=None, seed=1):
    """The Court after everything was tried, with a wrong design where one is named."""
    random.seed(seed)
    kept = None
    if wrong:
        place, name, design = WRONG[wrong]
        kept = getattr(place, name)
        setattr(place, name, design)
    try:
        court = Court()
        _changed(court, every)
        seen = _repeated(court)
        _spliced(court, seen)
        _misdirected(court)
        _cut(court)
        _flood(court)
        return court
    finally:
        if wrong:
            setattr(place, name, kept)


if __name__ == "__main__":
    found = run(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    print(json.dumps({"trials": found.trials, "texts": found.texts, "counts": found.counts}))
