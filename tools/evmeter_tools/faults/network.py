"""Campaign `network-link`: the device's own uplink over a network that fails in every way.

Reset at each byte in both directions, half-open connections, silent brokers, acknowledgements of
the broker lost, late and doubled, messages that it acknowledged and lost, on virtual time. Rules:
the backend's database ends with every frame once, unchanged; the device never lets go of a frame
that is not in it; what reaches the broker is well-formed.
"""

import errno
import json
import logging
import random

from evmeter.system.log import log
from evmeter.uplink import link as link_module
from evmeter.uplink import mqtt as mqtt_module
from evmeter.uplink import publisher as publisher_module
from evmeter.uplink.link import Link
from evmeter.uplink.publisher import Uplink, packet_id
from evmeter_tools.faults.result import Result
from evmeter_tools.faults.scripts.trusts_puback import trust

FRAMES = 10
_KEY = "a1b2c3d4"
_NAME = "demo-0001"
_ROOT = b"evmeter/v1/%s/" % _NAME.encode()
_SETTINGS = {"host": "10.0.0.1", "port": 1883, "user": None, "password": None,
             "keepalive_s": 30, "window": 4, "telemetry_s": 10}
_HEALED_MS = 3_600_000  # the network is good again after the faults; then this long at most
_DELAY_MS = 40  # one way
_UP_BYTES = 1200  # of a connection with its publishes: each is cut once
_DOWN_BYTES = 500
KINDS = ("reset up", "reset down", "half-open", "silent broker", "puback lost", "puback late",
         "puback doubled", "message lost after puback", "message doubled", "ack lost")
_CONTROL_TRIALS = 120


class _Sleep:
    """What a coroutine awaits here: the driver gets the ms."""

    def __init__(self, ms):
        self._ms = ms

    def __await__(self):
        yield self._ms


class _Time:
    """time, asyncio and the Clock for the uplink; every pause is at least 1 ms."""

    quality = "I"

    def __init__(self):
        self.now_ms = 0

    def ticks_ms(self):
        return self.now_ms

    mono_ms = ticks_ms

    @staticmethod
    def ticks_diff(end, start):
        return end - start

    @staticmethod
    def sleep_ms(ms):
        return _Sleep(max(ms, 1))


class _Random:
    """os for the publisher."""

    def __init__(self, rng):
        self.urandom = rng.randbytes


class _Journal:
    """Frames of text; `let_go(cursor)` is told when the cursor moves."""

    def __init__(self, frames, let_go):
        self.next_seq = frames + 1
        self.cursor = 0
        self._let_go = let_go

    def payload(self, seq):
        """The payload of frame `seq`, of different lengths."""
        text = '{"v":1,"k":"%s","seq":%d,"pad":"' % (_KEY, seq)
        return (text + "x" * (seq * 37 % 190) + '"}').encode()

    def read(self, seq, buffer):
        payload = self.payload(seq)
        buffer[: len(payload)] = payload
        return 1 + seq % 4, len(payload)

    def confirm(self, cum, sel=(), bad=()):
        done = self.cursor
        self.cursor = max(self.cursor, cum)
        while self.cursor + 1 in sel:
            self.cursor += 1
        for seq in {*range(done + 1, self.cursor + 1), *sel}:
            self._let_go(seq)


class _Monitor:
    def info(self):
        return "{}"

    status = telemetry = info

    def diagnostics(self, counters):
        return "{}"

    def alarms(self, all_codes=False):
        return []


class _Network:
    """The sockets, the broker and the backend of one trial. `faults` are (kind, position)."""

    AF_INET = 2
    SOCK_STREAM = 1
    TCP_NODELAY = 1

    def __init__(self, time, faults, journal, wrong):
        self.time = time
        self.faults = dict(faults)
        self.journal = journal
        self.wrong = wrong
        self.database = {}
        self.events = []  # (due, connection, function)
        self.connection = None
        self.durable = 0
        self.hit = set()

    def due(self, kind, count=1):
        """Whether the fault `kind` strikes now: positions count down, and each strikes once."""
        left = self.faults.get(kind)
        if left is None:
            return False
        self.faults[kind] = left - count
        if left - count >= 0:
            return False
        del self.faults[kind]
        self.hit.add(kind)
        return True

    def later(self, ms, function, connection=None):
        self.events.append((self.time.now_ms + ms, connection, function))

    def run_events(self):
        """What is due by now."""
        due = [event for event in self.events if event[0] <= self.time.now_ms]
        self.events = [event for event in self.events if event[0] > self.time.now_ms]
        for _, connection, function in due:
            if connection is None or connection is self.connection:
                function()

    # the module `socket`, and select.poll
    def socket(self):
        self.connection = _Connection(self)
        return self.connection

    def getaddrinfo(self, host, port, *_):
        return [(2, 1, 0, "", (host, port))]

    def register(self, sock, flags):
        pass

    def poll(self, timeout):
        return [(1, 4)]

    def stored(self, seq, payload):
        """The backend's database; then its acknowledgement."""
        if self.database.setdefault(seq, payload) != payload or payload != self.journal.payload(
                seq):
            self.wrong("frame %d stored with another content" % seq)
        cum = 0
        while cum + 1 in self.database:
            cum += 1
        text = json.dumps({"v": 1, "k": _KEY, "cum": cum, "sel": [seq] if seq > cum else [],
                           "bad": []})
        if not self.due("ack lost"):
            self.later(_DELAY_MS, lambda: self.say(_ROOT + b"ack", text.encode()))

    def say(self, topic, payload):
        """The broker's message to the device, if it is there; else nobody keeps it."""
        if self.connection:
            self.connection.say(topic, payload)


class _Connection:
    """A socket of the device, and the broker's end of it."""

    def __init__(self, network):
        self._network = network
        self._incoming = bytearray()
        self._pending = bytearray()
        self._dead = self._half_open = self._silent = False
        network_time = network.time
        self._opened_ms = network_time.now_ms

    def setblocking(self, flag):
        if flag:
            raise AssertionError("blocks for ever")

    def setsockopt(self, *_):
        pass

    def connect(self, address):
        self._silent = self._network.due("silent broker")
        raise OSError(errno.EINPROGRESS)

    def close(self):
        if self._network.connection is self:
            self._network.connection = None

    def _reset(self):
        self._dead = True
        raise OSError(errno.ECONNRESET)

    def write(self, data):
        network = self._network
        if self._dead:
            self._reset()
        data = bytes(data[: 1 + len(data) * 2 // 3])
        if network.due("half-open", len(data)):
            self._half_open = True
        if self._half_open:
            return len(data)
        left = network.faults.get("reset up")
        if network.due("reset up", len(data)):
            self._pending += data[:left]
            self._take()
            self._reset()
        self._pending += data
        self._take()
        return len(data)

    def readinto(self, buffer):
        if self._dead:
            self._reset()
        if not self._incoming or self._half_open:
            return None
        count = min(len(buffer), len(self._incoming), 1 + self._network.time.now_ms % 60)
        left = self._network.faults.get("reset down")
        if self._network.due("reset down", count):
            self._dead = True
            count = left
            if not count:
                self._reset()
        buffer[:count] = self._incoming[:count]
        del self._incoming[:count]
        return count

    def _answer(self, data, ms=_DELAY_MS):
        self._network.later(ms, lambda: self._incoming.extend(data), self)

    def say(self, topic, payload):
        """A QoS 1 message to the device."""
        body = len(topic).to_bytes(2, "big") + topic + b"\x00\x09" + payload
        head = bytearray(b"\x32")
        length = len(body)
        while length > 0x7F:
            head.append(length & 0x7F | 0x80)
            length >>= 7
        head.append(length)
        if not self._silent:
            self._incoming += head + body

    def _take(self):
        """The whole packets that have come."""
        while len(self._pending) >= 2:
            length = shift = at = 0
            while True:
                at += 1
                if at >= len(self._pending):
                    return
                length |= (self._pending[at] & 0x7F) << shift
                shift += 7
                if not self._pending[at] & 0x80:
                    break
            end = at + 1 + length
            if len(self._pending) < end:
                return
            first, body = self._pending[0], bytes(self._pending[at + 1 : end])
            del self._pending[:end]
            if not self._silent:
                self._packet(first, body)

    def _packet(self, first, body):
        network = self._network
        kind = first & 0xF0
        if kind == 0x10:
            if body[:7] != b"\x00\x04MQTT\x04":
                network.wrong("malformed CONNECT")
            self._answer(b"\x20\x02\x00\x00")
        elif kind == 0x80:
            self._answer(b"\x90\x03" + body[:2] + b"\x01")
            if body.endswith(b"_host/state\x01"):
                network.later(_DELAY_MS, lambda: self.say(b"evmeter/v1/_host/state",
                                                          b'{"online":true}'), self)
        elif kind == 0xC0:
            self._answer(b"\xd0\x00")
        elif kind == 0x30:
            self._publish(first, body)
        elif kind != 0x40:
            network.wrong("packet 0x%02x at the broker" % first)

    def _publish(self, first, body):
        network = self._network
        length = int.from_bytes(body[:2], "big")
        topic, body = body[2 : 2 + length], body[2 + length :]
        if not topic.startswith(_ROOT):
            network.wrong("topic %r" % topic)
            return
        if not first & 6:
            return
        pid, payload = body[:2], body[2:]
        if pid == b"\x00\x00":
            network.wrong("packet id 0")
        durable = topic[len(_ROOT) :] in (b"rec", b"evt", b"ivl", b"log")
        if not network.due("puback lost"):
            late = 30_000 if network.due("puback late") else _DELAY_MS
            self._answer(b"\x40\x02" + pid, late)
            if network.due("puback doubled"):
                self._answer(b"\x40\x02" + pid, late + 7)
        if not durable:
            return
        try:
            seq = json.loads(payload)["seq"]
        except (ValueError, KeyError):
            network.wrong("malformed frame %r" % payload[:40])
            return
        network.durable += 1
        if int.from_bytes(pid, "big") != packet_id(seq):
            network.wrong("frame %d under another packet id" % seq)
        if network.due("message lost after puback"):
            return
        for _ in range(2 if network.due("message doubled") else 1):
            network.later(_DELAY_MS, lambda: network.stored(seq, payload))


class TrustsPuback(Uplink):
    """A wrong design: what the broker has acknowledged is let go."""

    def __init__(self, *args):
        super().__init__(*args)
        trust(self)


class NeverAgain(Uplink):
    """A wrong design: what was sent once is not sent again."""

    def _rewind(self):
        return None

    def _send_frame(self, seq, dup, again=False):
        if not dup:
            super()._send_frame(seq, dup)


def _trial(faults, seed, result, design=Uplink):
    """One life of the uplink with these faults, until all is confirmed or an hour is over."""
    rng = random.Random(seed)
    time = _Time()
    what = ", ".join("%s at %d" % fault for fault in faults)

    def wrong(text):
        result.wrong("%s: %s" % (what, text))

    def let_go(seq):
        if seq not in network.database:
            wrong("frame %d let go, and not in the database" % seq)

    journal = _Journal(FRAMES, let_go)
    network = _Network(time, faults, journal, wrong)
    modules = (link_module, mqtt_module, publisher_module)
    kept = [(module, module.time, module.asyncio) for module in modules]
    kept_os = publisher_module.os
    for module in modules:
        module.time = module.asyncio = time
    publisher_module.os = _Random(rng)
    try:
        link = Link(sockets=network, poll=lambda: network)
        uplink = design(_SETTINGS, _NAME, journal, time, _Monitor(), _KEY, link)
        # nothing of this lay in the journal at the start
        uplink._published = 0
        running = uplink.run()
        while time.now_ms < _HEALED_MS and (journal.cursor < FRAMES or network.events):
            time.now_ms += running.send(None)
            network.run_events()
        running.close()
    finally:
        for module, its_time, its_asyncio in kept:
            module.time, module.asyncio = its_time, its_asyncio
        publisher_module.os = kept_os
    missing = [seq for seq in range(1, FRAMES + 1) if seq not in network.database]
    if missing:
        wrong("frames %s lost" % missing)
    elif journal.cursor < FRAMES:
        wrong("not all confirmed within an hour")
    for kind in network.hit:
        result.counts["fault: " + kind] += 1
    result.counts["connections lost"] += uplink.reconnects
    result.counts["frames published"] += network.durable
    result.counts["frames stored"] += len(network.database)
    result.counts["slowest trial, s"] = max(result.counts["slowest trial, s"],
                                            time.now_ms // 1000)


def _faults(number, rng, step):
    """The faults of trial `number`: each byte once, then mixtures."""
    single = ([("reset up", at) for at in range(0, _UP_BYTES, step)]
              + [("reset down", at) for at in range(0, _DOWN_BYTES, step)]
              + [("half-open", at) for at in range(0, _UP_BYTES, 40 * step)]
              + [("message lost after puback", at) for at in range(FRAMES)])
    if number < len(single):
        return [single[number]]
    kinds = rng.sample(KINDS, rng.randint(1, 4))
    return [(kind, rng.randrange({"reset up": _UP_BYTES, "half-open": _UP_BYTES,
                                  "reset down": _DOWN_BYTES, "silent broker": 2}.get(
                                      kind, FRAMES))) for kind in kinds]


def _campaign(result, trials, seed, design=Uplink, progress=None):
    """A wrong design's campaign ends with its first violation."""
    rng = random.Random(seed)
    step = max(1, 4 * (_UP_BYTES + _DOWN_BYTES) // (3 * trials))
    for number in range(trials):
        _trial(_faults(number, rng, step), rng.random(), result, design)
        result.trials += 1
        if progress:
            progress(number + 1, trials)
        if design is not Uplink and result.violations:
            return


def run(trials=20000, seed=5, progress=None, control_trials=_CONTROL_TRIALS):
    """Inject faults in `trials` lives, then look whether wrong designs are noticed."""
    result = Result("network-link")
    level = log.level
    log.setLevel(logging.ERROR)  # each connection that is lost is a warning
    try:
        _campaign(result, trials, seed, progress=progress)
        for name, design in (("a publisher that trusts PUBACK", TrustsPuback),
                             ("a publisher that sends once", NeverAgain)):
            tried = Result("control")
            _campaign(tried, control_trials, seed, design)
            result.controls[name] = bool(tried.violations)
    finally:
        log.setLevel(level)
    return result
