"""SNTP servers on the loopback, good and bad: what a device may find where it asks for the time.

`BEHAVIOURS` are kinds of answers by name. A true server's clock is the host's, or the one given.
"""

import random
import socket
import struct
import threading
import time

_UNIX_TO_NTP_S = 2208988800
_DAY_MS = 86400000
_WAIT_S = 0.1
_BYTES = 48


def now_ms():
    """The host's Unix time."""
    return time.time_ns() // 1000000


def _ntp(unix_ms):
    """A timestamp of 64 bits; the era is not part of it."""
    seconds, ms = divmod(unix_ms, 1000)
    return struct.pack(">II", (seconds + _UNIX_TO_NTP_S) % 2**32, (ms << 32) // 1000)


def reply(question, unix_ms, *, leap=0, version=4, mode=4, stratum=2, delay_ms=8, dispersion_ms=4,
          reference=b"\x7f\x00\x00\x01", origin=None, received=None, sent=None):
    """The answer to `question` of a server whose clock says `unix_ms`; what is given replaces a
    field: `origin`, `received` and `sent` as the 8 bytes of a timestamp."""
    here = _ntp(unix_ms)
    return b"".join((
        struct.pack(">BBbb", leap << 6 | version << 3 | mode, stratum, 6, -20),
        struct.pack(">II", (delay_ms << 16) // 1000, (dispersion_ms << 16) // 1000), reference,
        here, question[40:48] if origin is None else origin, received or here, sent or here))


def _other(origin, rng):
    data = bytearray(origin)
    data[rng.randrange(8)] ^= 1 << rng.randrange(8)
    return bytes(data)


_ZERO = bytes(8)
# name: function(question, unix_ms, rng) -> one answer. Each of FORGED must be refused.
FORGED = {
    "origin one bit off": lambda q, t, rng: reply(q, t, origin=_other(q[40:48], rng)),
    "origin zero": lambda q, t, rng: reply(q, t, origin=_ZERO),
    "no origin, as a broadcast": lambda q, t, rng: reply(q, t, mode=5),
    "the question itself": lambda q, t, rng: bytes(q),
    "mode of a client": lambda q, t, rng: reply(q, t, mode=3),
    "mode of a control message": lambda q, t, rng: reply(q, t, mode=6),
    "version 1": lambda q, t, rng: reply(q, t, version=1),
    "stratum 0": lambda q, t, rng: reply(q, t, stratum=0, reference=bytes(4)),
    "stratum 16": lambda q, t, rng: reply(q, t, stratum=rng.randrange(16, 256)),
    "alarm condition": lambda q, t, rng: reply(q, t, leap=3),
    "transmit zero": lambda q, t, rng: reply(q, t, sent=_ZERO),
    "receive zero": lambda q, t, rng: reply(q, t, received=_ZERO),
    "all zero": lambda q, t, rng: bytes(_BYTES),
    "root delay 1 hour": lambda q, t, rng: reply(q, t, delay_ms=3600000),
    "root dispersion 16 s": lambda q, t, rng: reply(q, t, dispersion_ms=16000),
    "received after sent": lambda q, t, rng: reply(q, t, received=_ntp(t + _DAY_MS)),
    "held for a day": lambda q, t, rng: reply(q, t, received=_ntp(t - _DAY_MS)),
    "before the build": lambda q, t, rng: reply(q, rng.randrange(1577836800000, 1700000000000)),
    "1970": lambda q, t, rng: reply(q, rng.randrange(10**9)),
    "short": lambda q, t, rng: reply(q, t)[:rng.randrange(_BYTES)],
    "empty": lambda q, t, rng: b"",
    "noise": lambda q, t, rng: rng.randbytes(rng.randrange(1, 120)),
}
KISSES = {
    "kiss " + code: lambda q, t, rng, code=code: reply(q, t, stratum=0, reference=code.encode())
    for code in ("RATE", "DENY", "RSTR")
}
GOOD = {
    "good": lambda q, t, rng: reply(q, t),
    "good and long": lambda q, t, rng: reply(q, t) + rng.randbytes(20),
    "good, version 3": lambda q, t, rng: reply(q, t, version=3),
}
BEHAVIOURS = GOOD | KISSES | FORGED


class TimeServer:
    """A server on a UDP port of the loopback, in a thread of its own.

    `answers(question, unix_ms)` gives what it sends, a list of bytes. `address` is "ip:port".
    """

    def __init__(self, answers=lambda question, unix_ms: [reply(question, unix_ms)],
                 clock_ms=now_ms):
        self.answers = answers
        self.asked = 0
        self._clock_ms = clock_ms
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(_WAIT_S)
        self.address = "127.0.0.1:%d" % self._socket.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @classmethod
    def behaving(cls, name, off_ms=0, seed=1):
        """A server with one of BEHAVIOURS whose clock is wrong by `off_ms`."""
        rng = random.Random(seed)
        return cls(lambda question, unix_ms: [BEHAVIOURS[name](question, unix_ms, rng)],
                   lambda: now_ms() + off_ms)

    def _serve(self):
        while not self._stop.is_set():
            try:
                question, peer = self._socket.recvfrom(512)
            except TimeoutError:
                continue
            self.asked += 1
            for data in self.answers(question, self._clock_ms()):
                self._socket.sendto(data, peer)

    def close(self):
        """End the thread and free the port."""
        self._stop.set()
        self._thread.join()
        self._socket.close()
