"""What stands around a device that asks for the time: servers, a battery clock, its crystal."""

from evmeter_tools.bench.time_server import FORGED, GOOD, KISSES, reply

BUILD_MS = 1795478400000
HOUR_MS = 3600000
DAY_MS = 24 * HOUR_MS
CRYSTAL_PPM = 90
_TICKS = 2**30
_LEAST_LIE_MS = 2000  # apart from each other and from the truth
_LIES_MS = (_LEAST_LIE_MS, 30000, 61000, HOUR_MS, DAY_MS, 400 * DAY_MS, 3650 * DAY_MS)
_ERA_MS = 2085978496000  # 2036-02-07 06:28:16: NTP's seconds begin anew
_YEAR_2038_MS = 2**31 * 1000
_STARTS_MS = (BUILD_MS + HOUR_MS, BUILD_MS + 900 * DAY_MS, BUILD_MS + 4000 * DAY_MS,
              _ERA_MS - HOUR_MS, _YEAR_2038_MS - HOUR_MS)

TRUE = (*GOOD, "slow", "slow back", "inexact", "leap second", "flood")
FALSE = ("silent", "closed", "replayed", *KISSES, *FORGED)
KINDS = (*TRUE, "lying", *FALSE)


class World:
    """True time, and a device's crystal that is wrong by `ppm`."""

    def __init__(self, rng):
        self.true_ms = rng.choice(_STARTS_MS)
        self._ppm = rng.randint(-CRYSTAL_PPM, CRYSTAL_PPM)
        self._device_us = rng.randrange(_TICKS) * 1000
        self.clock = None

    def pass_ms(self, ms):
        """True time passes; a device reads its clock every few hours at least."""
        while ms > 0:
            part_ms = min(ms, 12 * HOUR_MS)
            ms -= part_ms
            self.true_ms += part_ms
            self._device_us += part_ms * 1000 + part_ms * self._ppm // 1000
            if self.clock:
                self.clock.mono_ms()

    async def sleep_ms(self, ms):
        """As asyncio.sleep_ms."""
        self.pass_ms(ms)

    def ticks_ms(self):
        """As time.ticks_ms."""
        return self._device_us // 1000 % _TICKS

    def ticks_diff(self, end, start):
        """As time.ticks_diff."""
        return (end - start + _TICKS // 2) % _TICKS - _TICKS // 2


class TimeSource:
    """A time server: `kind` is what it does, `off_ms` how wrong its clock is."""

    def __init__(self, rng):
        self._rng = rng
        self.kind, self.off_ms = "good", 0
        self._heard = b""

    def become(self, kind, others):
        """Change its behaviour; no two servers lie alike."""
        self.kind, self.off_ms = kind, 0
        while kind == "lying" and (not self.off_ms or any(
                abs(self.off_ms - other.off_ms) < _LEAST_LIE_MS for other in others
                if other is not self)):
            self.off_ms = (self._rng.choice(_LIES_MS) + self._rng.randrange(3000)) * (
                self._rng.choice((-1, 1)))

    def answers(self, question, true_ms):
        """[(ms until it arrives, datagram or None for a refused port)]."""
        rng = self._rng
        kind = self.kind
        there_ms, back_ms = rng.randrange(60), rng.randrange(60)
        if kind == "slow":
            there_ms = rng.randrange(1600)
        elif kind == "slow back":
            back_ms = rng.randrange(1600)
        at_ms = true_ms + there_ms + self.off_ms
        if kind == "silent":
            return []
        if kind == "closed":
            return [(back_ms, None)]
        if kind == "inexact":
            at_ms += rng.randrange(-400, 401)
            data = reply(question, at_ms, dispersion_ms=450)
        elif kind == "leap second":
            data = reply(question, at_ms + rng.randrange(-900, 901), leap=rng.choice((1, 2)))
        elif kind == "replayed":
            self._heard, data = reply(question, at_ms), self._heard
        elif kind == "flood":
            forged = [(back_ms, FORGED["origin zero"](question, at_ms, rng)) for _ in range(20)]
            return [*forged, (there_ms + back_ms, reply(question, at_ms))]
        else:
            table = {**FORGED, **KISSES, **GOOD}
            data = table.get(kind, GOOD["good"])(question, at_ms, rng)
        return [(there_ms + back_ms, data)]


class _Socket:
    def __init__(self, world, servers):
        self._world = world
        self._servers = servers
        self._server = None
        self._arrivals = []

    def setblocking(self, flag):
        if flag:
            raise RuntimeError("it waits for ever on an ESP32")

    def connect(self, address):
        self._server = self._servers[address[0]]

    def send(self, data):
        begun_ms = self._world.true_ms
        self._arrivals = [(begun_ms + ms, answer) for ms, answer in
                          self._server.answers(bytes(data), begun_ms)]

    def readinto(self, buffer):
        if not self._arrivals or self._world.true_ms < self._arrivals[0][0]:
            return None
        data = self._arrivals.pop(0)[1]
        if data is None:
            raise ConnectionRefusedError(111, "refused")
        length = min(len(data), len(buffer))
        buffer[:length] = data[:length]
        return length

    def close(self):
        self._arrivals = []


class Sockets:
    """The module `socket` of a device."""

    AF_INET = SOCK_DGRAM = 2

    def __init__(self, world, servers):
        self._world = world
        self._servers = servers

    def getaddrinfo(self, host, port, family, kind):
        return [(family, kind, 0, "", (host, port))]

    def socket(self, family, kind):
        return _Socket(self._world, self._servers)


class Battery:
    """A battery-backed clock: `fault` is "", "gone" or "stopped"."""

    def __init__(self, world):
        self._world = world
        self.off_ms = 0
        self.fault = ""

    def unix_ms(self):
        """As drivers.ds3231."""
        if self.fault == "gone":
            raise OSError(19)
        if self.fault:
            raise ValueError("its oscillator has stopped")
        return self._world.true_ms + self.off_ms

    def set(self, unix_ms):
        """As drivers.ds3231."""
        if self.fault == "gone":
            raise OSError(19)
        self.fault = ""
        self.off_ms = unix_ms - self._world.true_ms
