"""A UART on a pty or a serial port, with the manners of the ESP32's driver.

Timeouts are rounded down to the 10 ms tick of FreeRTOS; a receive buffer of 256 bytes overflows.
The line speed itself comes from the other side of the pty (the bench's wire); on a real port the
speed is set here.
"""

import os
import sys
import time

from micropython import const

_TICK_MS = const(10)
_CPYTHON = sys.implementation.name == "cpython"


def _set_line(path, baudrate, bits, parity, stop):
    """Raw mode and the line's parameters. MicroPython's termios cannot set a speed: stty can."""
    parity_words = {"N": "-parenb", "E": "parenb -parodd", "O": "parenb parodd"}[parity]
    command = "stty -F '%s' raw -echo %d cs%d %s %s min 0 time 0 2>/dev/null" % (
        path, baudrate, bits, "cstopb" if stop == 2 else "-cstopb", parity_words)
    if os.system(command) and os.system("stty -F '%s' raw -echo min 0 time 0" % path):
        raise OSError(5)


class Uart:
    """machine.UART's any, read, readinto, write, flush, txdone on the device file `path`."""

    def __init__(self, path, baudrate=9600, bits=8, parity="N", stop=1, timeout=0, rxbuf=256):
        if "'" in path:
            raise ValueError("the port's path must not hold a quote")
        os.stat(path)
        _set_line(path, baudrate, bits, parity, stop)
        self._char_us = (1 + bits + (parity != "N") + stop) * 1000000 // baudrate
        self._timeout_ms = timeout // _TICK_MS * _TICK_MS
        if _CPYTHON:
            self._file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        else:
            self._file = open(path, "r+b", buffering=0)
        self._buffer = bytearray(rxbuf)
        self._view = memoryview(self._buffer)
        self._count = 0
        self._sent_at_us = time.ticks_us()
        self._sending_us = 0

    def _fill(self):
        room = len(self._buffer) - self._count
        if not room:
            self._drain()
            return
        if _CPYTHON:
            try:
                got = os.readv(self._file, [self._view[self._count :]])
            except BlockingIOError:
                got = 0
        else:
            got = self._file.readinto(self._view[self._count :])
        if got:
            self._count += got

    def _drain(self):
        """Bytes that come while the buffer is full are lost, as in the ESP32's driver."""
        if _CPYTHON:
            try:
                os.read(self._file, 256)
            except BlockingIOError:
                return
        else:
            self._file.read(256)

    def any(self):
        """How many bytes wait."""
        self._fill()
        return self._count

    def readinto(self, buffer, nbytes=None):
        """Move up to `nbytes` into `buffer`; returns how many, or None where nothing came within
        the timeout."""
        wanted = len(buffer) if nbytes is None else min(nbytes, len(buffer))
        self._fill()
        begun = time.ticks_ms()
        while not self._count and time.ticks_diff(time.ticks_ms(), begun) < self._timeout_ms:
            time.sleep_ms(1)
            self._fill()
        count = min(wanted, self._count)
        if not count:
            return None
        buffer[:count] = self._view[:count]
        rest = self._count - count
        if rest:
            self._buffer[:rest] = self._buffer[count : self._count]
        self._count = rest
        return count

    def read(self, nbytes=256):
        """Up to `nbytes` as bytes, or None."""
        buffer = bytearray(nbytes)
        count = self.readinto(buffer)
        return bytes(buffer[:count]) if count else None

    def write(self, buffer):
        """Start to send; returns the number of bytes."""
        count = os.write(self._file, buffer) if _CPYTHON else self._file.write(buffer)
        self._sent_at_us = time.ticks_us()
        self._sending_us = count * self._char_us
        return count

    def txdone(self):
        """Whether the last bit has left."""
        return time.ticks_diff(time.ticks_us(), self._sent_at_us) >= self._sending_us

    def flush(self):
        """Wait until the last bit has left."""
        while not self.txdone():
            time.sleep_us(100)

    def close(self):
        if _CPYTHON:
            os.close(self._file)
        else:
            self._file.close()
