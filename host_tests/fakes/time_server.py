"""SNTP servers in memory, over sockets with the ESP32's manners."""

import errno
import struct

_ECONNREFUSED = 111


def reply(question, unix_ms, **wrong):
    """A server's answer to the 48 bytes of `question`, made at `unix_ms`; keywords change it."""
    values = {"leap": 0, "version": 4, "mode": 4, "stratum": 2, "delay_ms": 10,
              "dispersion_ms": 5, "reference": b"\\x7f\\x00\\x00\\x01",
              "origin": bytes(question[40:48]), "received_ms": unix_ms, "sent_ms": unix_ms}
    values.update(wrong)
    packet = bytearray(48)
    packet[0] = values["leap"] << 6 | values["version"] << 3 | values["mode"]
    packet[1] = values["stratum"]
    struct.pack_into(">II", packet, 4, (values["delay_ms"] << 16) // 1000,
                     (values["dispersion_ms"] << 16) // 1000)
    packet[12:16] = values["reference"]
    packet[24:32] = values["origin"]
    for at, name in ((32, "received_ms"), (40, "sent_ms")):
        ms = values[name]
        if ms is not None:
            ntp_ms = ms + 2208988800000
            struct.pack_into(">II", packet, at, ntp_ms // 1000 & 0xFFFFFFFF,
                             (ntp_ms % 1000 << 32) // 1000)
    return bytes(packet)


class FakeTime:
    """True time, and a clock that counts from the boot; passes when somebody sleeps."""

    def __init__(self, unix_ms, ticks=0):
        self.unix_ms = unix_ms
        self.ticks = ticks

    def pass_ms(self, ms):
        self.unix_ms += ms
        self.ticks += ms

    async def sleep_ms(self, ms):
        self.pass_ms(ms)

    def ticks_ms(self):
        return self.ticks & (2**30 - 1)

    def ticks_diff(self, end, start):
        return ((end - start + 2**29) & (2**30 - 1)) - 2**29


class Socket:
    """A UDP socket; MicroPython's give None without data, CPython's raise EAGAIN."""

    def __init__(self, net):
        self._net = net
        self._server = None
        self._begun = self._asked = None
        self.closed = False
        net.sockets.append(self)

    def setblocking(self, flag):
        if flag:
            raise AssertionError("setblocking(True) waits for ever on an ESP32")

    def connect(self, address):
        self._server = self._net.servers.get(address[0])

    def send(self, data):
        self._net.asked.append(self._server)
        self._asked = bytes(data)
        self._begun = self._net.time.unix_ms
        self._answers = self._server(self._asked, self._begun) if self._server else []

    def readinto(self, buffer):
        now_ms = self._net.time.unix_ms
        if self._answers and now_ms - self._begun >= self._answers[0][0]:
            data = self._answers.pop(0)[1]
            if data is None:
                raise OSError(_ECONNREFUSED)
            length = min(len(data), len(buffer))
            buffer[:length] = data[:length]
            return length
        if self._net.raises_again:
            raise OSError(errno.EAGAIN)
        return None

    def close(self):
        self.closed = True


class Net:
    """The module `socket`. `servers`: host -> function(question, unix ms) that gives answers as
    [(delay ms, bytes or None for a refused port)]."""

    AF_INET = 2
    SOCK_DGRAM = 2

    def __init__(self, time):
        self.time = time
        self.servers = {}
        self.asked = []
        self.sockets = []
        self.raises_again = False

    def getaddrinfo(self, host, port, family, kind):
        if host.strip("0123456789."):
            raise OSError(-2)
        return [(2, 2, 0, "", (host, port))]

    def socket(self, family, kind):
        return Socket(self)


def server(trip_ms=20, off_ms=0, **wrong):
    """A server whose answer takes `trip_ms` there and back, and that is wrong by `off_ms`."""
    def answers(question, unix_ms):
        return [(trip_ms, reply(question, unix_ms + trip_ms // 2 + off_ms, **wrong))]
    return answers


def run(coroutine):
    """What a coroutine returns that waits for FakeTime only."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something else")
