"""SNTP client (RFC 4330, RFC 5905 section 14): one question, one answer that can be believed.

The socket is connected, so that the network stack drops what other addresses send. The transmit
timestamp of a question is 64 random bits, which the answer must echo: who cannot read the question
cannot forge an answer, and no answer counts twice. Round trips are measured by the monotonic
clock, so that the wall clock may be wrong by decades.
"""

import asyncio
import errno
import os
import socket
import struct

from micropython import const

from evmeter.uplink import is_address

_PORT = const(123)
_BYTES = const(48)
_BUFFER = const(128)  # an answer may carry extension fields and a MAC, which are not read
_QUESTION = const(0x23)  # leap 0, version 4, mode 3 (client)
_SERVER = const(4)
_UNSYNCHRONISED = const(3)
_NTP_TO_UNIX_S = const(2208988800)
_ERA_S = const(4294967296)  # seconds count modulo 2**32; era 1 begins 2036-02-07 06:28:16
_AHEAD_S = const(631152000)  # 20 years after the floor is no time for this device
_DISTANCE_MS = const(1500)  # RFC 5905: MAXDIST
_ROUND_TRIP_MS = const(1500)
_TICK_MS = const(2)  # two readings of a clock of 1 ms
_LEAP_MS = const(1000)
_STEP_MS = const(10)
STOP = ("DENY", "RSTR")


class SntpError(Exception):
    """No answer that can be believed; the text says why."""


class Kiss(SntpError):
    """The server asks to be left alone; `code` is RATE, DENY, RSTR or another of RFC 5905."""

    def __init__(self, code):
        super().__init__("the server says " + code)
        self.code = code


class Sample:
    """It was `unix_ms` at `mono_ms`, give or take `uncertainty_ms`, as `address` says."""

    def __init__(self, address, mono_ms, unix_ms, uncertainty_ms, round_trip_ms):
        self.address = address
        self.mono_ms = mono_ms
        self.unix_ms = unix_ms
        self.uncertainty_ms = uncertainty_ms
        self.round_trip_ms = round_trip_ms

    def offset_ms(self):
        """Unix time of the boot."""
        return self.unix_ms - self.mono_ms


def question(nonce):
    """The 48 bytes that ask for the time; `nonce` is 8 random bytes."""
    packet = bytearray(_BYTES)
    packet[0] = _QUESTION
    packet[40:] = nonce
    return packet


def _unix_ms(seconds, fraction, pivot_s):
    """Unix ms of an NTP timestamp, of the era that puts it nearest to `pivot_s`."""
    unix_s = seconds - _NTP_TO_UNIX_S
    unix_s += (pivot_s - unix_s + _ERA_S // 2) // _ERA_S * _ERA_S
    return unix_s * 1000 + (fraction * 1000 + _ERA_S // 2) // _ERA_S


def _check_head(packet, length, nonce):
    """It is a synchronised server's answer to this question. Raises SntpError, Kiss."""
    if length < _BYTES:
        raise SntpError("%d bytes" % length)
    if bytes(packet[24:32]) != nonce:
        raise SntpError("answer to another question")
    first, stratum = packet[0], packet[1]
    if first & 7 != _SERVER:
        raise SntpError("mode %d" % (first & 7))
    if first >> 3 & 7 not in (3, 4):
        raise SntpError("version %d" % (first >> 3 & 7))
    if stratum == 0:
        code = bytes(packet[12:16])
        if not all(65 <= letter <= 90 for letter in code):
            raise SntpError("stratum 0")
        raise Kiss(code.decode())
    if stratum > 15:
        raise SntpError("stratum %d" % stratum)
    if first >> 6 == _UNSYNCHRONISED:
        raise SntpError("server not synchronised")


def answer(packet, length, nonce, round_trip_ms, floor_unix_ms):
    """What `length` bytes in `packet` say: (Unix ms at their arrival, uncertainty in ms, round
    trip on the wire in ms). `round_trip_ms` is what passed since the question.

    Raises SntpError, Kiss.
    """
    _check_head(packet, length, nonce)
    delay, dispersion = struct.unpack_from(">II", packet, 4)  # s, 16.16
    distance_ms = (delay // 2 + dispersion) * 1000 >> 16
    if distance_ms > _DISTANCE_MS:
        raise SntpError("server up to %d ms wrong" % distance_ms)
    times = struct.unpack_from(">IIII", packet, 32)
    if not (times[0] or times[1]) or not (times[2] or times[3]):
        raise SntpError("timestamp zero")
    pivot_s = floor_unix_ms // 1000
    received_ms = _unix_ms(times[0], times[1], pivot_s)
    sent_ms = _unix_ms(times[2], times[3], pivot_s)
    wire_ms = round_trip_ms - (sent_ms - received_ms)
    if sent_ms < received_ms or wire_ms < -_TICK_MS:
        raise SntpError("server held the question for %d ms" % (sent_ms - received_ms))
    if round_trip_ms > _ROUND_TRIP_MS:
        raise SntpError("round trip of %d ms" % round_trip_ms)
    wire_ms = max(0, wire_ms)
    unix_ms = sent_ms + wire_ms // 2
    if unix_ms < floor_unix_ms:
        raise SntpError("time before %d" % pivot_s)
    if unix_ms - floor_unix_ms > _AHEAD_S * 1000:
        raise SntpError("time more than 20 years ahead")
    uncertainty_ms = wire_ms // 2 + 1 + distance_ms + _TICK_MS
    if packet[0] >> 6:  # a minute of 61 or 59 seconds comes, and servers differ in how they tell
        uncertainty_ms += _LEAP_MS
    return unix_ms, uncertainty_ms, wire_ms


def _split(name):
    """(host, port) of "host" or "host:port"."""
    host, _, port = name.partition(":")
    return host, int(port) if port else _PORT


class SntpClient:
    """`clock` has mono_ms. `resolve(name)` is a coroutine function that gives a name's IPv4
    address as text (see uplink/resolver.py): getaddrinfo never gets a name, as on the ESP32 it
    blocks as long as the name server is silent."""

    def __init__(self, clock, resolve=None, sockets=socket, random=os.urandom,
                 sleep_ms=asyncio.sleep_ms):
        self._clock = clock
        self._resolve = resolve
        self._sockets = sockets
        self._random = random
        self._sleep_ms = sleep_ms
        self._buffer = bytearray(_BUFFER)
        self.refused = 0  # answers that were not believed

    async def ask(self, server, floor_unix_ms, timeout_ms=_ROUND_TRIP_MS):
        """A Sample of `server`, a name with or without ":port". Answers that cannot be believed
        are dropped and the right one is waited for. Raises SntpError, Kiss, OSError."""
        host, port = _split(server)
        if not is_address(host):
            if self._resolve is None:
                raise SntpError("nothing here resolves names; configure the server's address")
            host = await self._resolve(host)
        sockets = self._sockets
        address = sockets.getaddrinfo(host, port, sockets.AF_INET, sockets.SOCK_DGRAM)[0][-1]
        sock = sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM)
        try:
            # For good: on the ESP32 setblocking(True) clears a timeout, and read() then waits for
            # ever.
            sock.setblocking(False)
            sock.connect(address)
            return await self._exchange(sock, address, floor_unix_ms, timeout_ms)
        finally:
            sock.close()

    async def _exchange(self, sock, address, floor_unix_ms, timeout_ms):
        clock, buffer = self._clock, self._buffer
        receive = getattr(sock, "readinto", None) or sock.recv_into
        nonce = self._random(8)
        begun_ms = clock.mono_ms()
        sock.send(question(nonce))
        why = "no answer"
        while True:
            length = self._look(receive, buffer)
            waited_ms = clock.mono_ms() - begun_ms
            if length is not None:
                try:
                    unix_ms, uncertainty_ms, wire_ms = answer(
                        buffer, length, nonce, waited_ms, floor_unix_ms)
                    return Sample(address, begun_ms + waited_ms, unix_ms, uncertainty_ms, wire_ms)
                except Kiss:
                    raise
                except SntpError as error:
                    self.refused += 1
                    why = str(error)
            if waited_ms > timeout_ms:
                raise SntpError(why)
            await self._sleep_ms(_STEP_MS if length is None else 0)

    def _look(self, receive, buffer):
        """Length of a datagram, None where there is none."""
        try:
            return receive(buffer)
        except OSError as error:
            if error.args[0] != errno.EAGAIN:
                raise
            return None
