"""A transport with the ESP32's worst manners: after setblocking(True) a read without data ends
after an hour only, and so does a name for getaddrinfo. The pilot's task keeps its turns."""

import asyncio

from evmeter.uplink import link as link_module
from evmeter.uplink import mqtt as mqtt_module
from evmeter.uplink import resolver as resolver_module
from evmeter.uplink.link import Link
from evmeter.uplink.mqtt import Session
from evmeter.uplink.resolver import Resolver
from fakes.net import FakeBroker, FakePoller, FakeSocket
from fakes.virtual_time import VirtualTime

_PILOT_MS = 50
_HOUR_MS = 3600000
_SETTINGS = {"host": "10.0.0.1", "port": 1883, "user": None, "password": None, "keepalive_s": 30}


class _Socket(FakeSocket):
    """FakeSocket that really blocks: `clock` passes an hour, then it is a timeout."""

    def __init__(self, broker, clock, kind):
        super().__init__(broker)
        self._clock = clock
        self._kind = kind
        self._blocking = True  # as a fresh one is
        self.most_at_once = 500

    def setblocking(self, flag):
        self._blocking = flag

    def settimeout(self, seconds):
        return None  # the first setblocking(True) takes it away

    def connect(self, address):
        if self._kind == _Sockets.SOCK_DGRAM:
            return
        try:
            super().connect(address)
        except OSError:
            if not self._blocking:
                raise

    def _again(self):
        if self._blocking:
            self._clock.pass_ms(_HOUR_MS)
            raise OSError(116)

    def read(self, count):
        """What umqtt.simple calls on its own socket."""
        data = bytearray(count)
        got = self.readinto(data)
        return None if got is None else bytes(data[:got])

    def write(self, data, count=None):
        return super().write(data if count is None else data[:count])

    def bind(self, address):
        return None

    def send(self, data):
        return len(data)


class _Sockets:
    AF_INET = 2
    SOCK_STREAM = 1
    SOCK_DGRAM = 2

    def __init__(self, broker, clock):
        self._broker = broker
        self._clock = clock

    def socket(self, family=2, kind=1):
        return _Socket(self._broker, self._clock, kind)

    def getaddrinfo(self, host, port, *_):
        if host.strip("0123456789."):
            self._clock.pass_ms(_HOUR_MS)
            raise OSError(-2)
        return [(2, 1, 0, "", (host, port))]


async def _longest_gap(clock, work):
    """The pilot task's longest gap in ms while `work` runs."""
    longest = 0
    done = False

    async def pilot():
        nonlocal longest
        while not done:
            last_ms = clock.mono_ms()
            await clock.sleep_ms(_PILOT_MS)
            longest = max(longest, clock.mono_ms() - last_ms)

    task = asyncio.create_task(pilot())
    await clock.sleep_ms(0)
    try:
        await work()
    except OSError as error:
        print("  ", error)
    done = True
    await task
    return longest


def _with_time(play):
    modules = (link_module, mqtt_module, resolver_module)
    kept = [(module, module.time, module.asyncio) for module in modules]
    clock = VirtualTime()
    for module in modules:
        module.time = module.asyncio = clock
    try:
        return asyncio.run(_longest_gap(clock, lambda: play(clock)))
    finally:
        for module, time, loop in kept:
            module.time, module.asyncio = time, loop


async def _live(session, clock, seconds):
    for number in range(seconds):
        session.publish(b"t/rec", b"frame", 1, False, number + 1)
        for _ in range(20):
            session.poll()
            await clock.sleep_ms(50)


def _ours(host, silent_at):
    """The firmware's own link; the broker falls silent at a stage."""
    async def play(clock):
        broker = FakeBroker()
        broker.silent = silent_at == "connect"
        sockets = _Sockets(broker, clock)
        link = Link(Resolver(lambda: ("10.0.0.53",), sockets=sockets), sockets=sockets,
                    poll=FakePoller)
        session = Session(link, "demo-0001", dict(_SETTINGS, host=host), b"t/avail",
                          lambda topic, payload: None)
        try:
            await session.connect()
            session.subscribe(b"t/ack", 40000)
            broker.say(b"t/ack", b"before")
            await _live(session, clock, 5)
            broker.silent = silent_at in ("later", "half a packet")
            if silent_at == "half a packet":
                broker.socket.incoming.extend(b"\x30\x7f\x00")
            if silent_at == "full":
                broker.socket.stuck = True
            await _live(session, clock, 100)
        finally:
            session.close()

    return play


async def _bare(clock):
    """umqtt.simple on that socket, as its examples use it."""
    broker = FakeBroker()
    umqtt = mqtt_module.umqtt
    kept = umqtt.socket
    umqtt.socket = _Sockets(broker, clock)
    try:
        client = umqtt.MQTTClient(b"demo-0001", "10.0.0.1", 1883, keepalive=30)
        client.connect()
        client.publish(b"t/rec", b"frame", False, 1)
        broker.silent = True
        client.publish(b"t/rec", b"frame", False, 1)
    finally:
        umqtt.socket = kept


def test_the_pilots_task_keeps_its_turns_whatever_the_network_does():
    for host, silent_at in (("10.0.0.1", "never"), ("10.0.0.1", "connect"), ("10.0.0.1", "later"),
                            ("10.0.0.1", "half a packet"), ("10.0.0.1", "full"),
                            ("broker.example", "name server")):
        gap_ms = _with_time(_ours(host, silent_at))
        print("silent at %s: longest gap %d ms" % (silent_at, gap_ms))
        assert _PILOT_MS <= gap_ms <= _PILOT_MS + 10, (silent_at, gap_ms)


def test_bare_umqtt_holds_everything_up_for_the_hour():
    gap_ms = _with_time(_bare)
    print("bare umqtt.simple: longest gap %d ms" % gap_ms)
    assert gap_ms >= _HOUR_MS
