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
_DRAIN_ROUNDS = const(256)  # of the buffer's size: 64 KiB, more than a pty holds
_CPYTHON = sys.implementation.name == "cpython"
_RAW = "raw -echo clocal cread min 0 time 0"
_PARITY = {"N": "-parenb", "E": "parenb -parodd", "O": "parenb parodd"}


def _set_line(path, baudrate, bits, parity, stop):
    """Raw mode and the line's parameters. MicroPython's termios cannot set a speed: stty can. What
    a pty cannot do of them makes no difference there; on a port it is an error."""
    command = (
        "stty -F '%s' %s -crtscts %d cs%d %s %s 2>/dev/null || "
        "case $(readlink -f '%s') in /dev/pts/*) stty -F '%s' %s 2>/dev/null;; *) exit 1;; esac"
        % (path, _RAW, baudrate, bits, "cstopb" if stop == 2 else "-cstopb", _PARITY[parity],
           path, path, _RAW))
    if os.system(command):
        raise OSError(5, "%s is no serial port that does %d baud, parity %s, %d stop bits"
                      % (path, baudrate, parity, stop))


class Uart:
    """machine.UART's any, read, readinto, write, flush, txdone on the device file `path`.

    `timeout`: ms to wait for the first byte of a read; `timeout_char`: ms between two bytes.
    Raises OSError where `path` is missing or no serial port.
    """

    def __init__(self, path, baudrate=9600, bits=8, parity="N", stop=1, timeout=0, timeout_char=0,
                 rxbuf=256):
        if "'" in path:
            raise ValueError("the port's path must not hold a quote")
        try:
            os.stat(path)
        except OSError as error:
            raise OSError(error.args[0], "there is no serial port %s" % path) from None
        _set_line(path, baudrate, bits, parity, stop)
        self._char_us = (1 + bits + (parity != "N") + stop) * 1000000 // baudrate
        self._timeout_ms = timeout // _TICK_MS * _TICK_MS
        self._timeout_char_ms = timeout_char // _TICK_MS * _TICK_MS
        if _CPYTHON:
            self._file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        else:
            self._file = open(path, "r+b", buffering=0)
        self._fresh = bytearray(rxbuf)  # all buffers are made here: a poll takes no memory
        self._buffer = bytearray(rxbuf)
        self._count = 0
        self._sent_at_us = time.ticks_us()
        self._sending_us = 0
        self._drain()  # a chip that was off has heard nothing

    def _take(self):
        """Move what the line has into `_fresh`; returns the number of bytes."""
        if not _CPYTHON:
            return self._file.readinto(self._fresh) or 0
        try:
            return os.readv(self._file, [self._fresh])
        except BlockingIOError:
            return 0

    def _drain(self):
        """Lose what is on the line."""
        rounds = _DRAIN_ROUNDS
        while rounds and self._take():
            rounds -= 1

    def _fill(self):
        """Take what has come since the last call. What does not fit the buffer is lost, as in the
        ESP32's driver."""
        held, fresh, count = self._buffer, self._fresh, self._count
        came = self._take()
        room = len(held) - count
        for index in range(min(came, room)):
            held[count + index] = fresh[index]
        self._count = min(count + came, len(held))
        if self._count == len(held):
            self._drain()

    def any(self):
        """How many bytes wait."""
        self._fill()
        return self._count

    def readinto(self, buffer, nbytes=None):
        """Move up to `nbytes` into `buffer`; returns how many, or None where nothing came within
        the timeout."""
        wanted = len(buffer) if nbytes is None else min(nbytes, len(buffer))
        held = self._buffer
        moved = 0
        limit_ms = self._timeout_ms
        while True:
            if self._count < wanted - moved or self._count == len(held):
                self._fill()
            begun = time.ticks_ms()
            while not self._count and time.ticks_diff(time.ticks_ms(), begun) < limit_ms:
                time.sleep_ms(1)
                self._fill()
            count = min(wanted - moved, self._count)
            # byte by byte: slices would take memory that the real driver does not
            for index in range(count):
                buffer[moved + index] = held[index]
            self._count -= count
            for index in range(self._count):
                held[index] = held[count + index]
            moved += count
            limit_ms = self._timeout_char_ms
            if not count or moved == wanted or not limit_ms:
                return moved or None

    def read(self, nbytes=256):
        """Up to `nbytes` as bytes, or None."""
        buffer = bytearray(nbytes)
        count = self.readinto(buffer)
        return bytes(buffer[:count]) if count else None

    def _left_us(self):
        """Time until the last bit has left, in microseconds."""
        elapsed_us = time.ticks_diff(time.ticks_us(), self._sent_at_us)
        # negative: the ticks have wrapped since, so it was long ago
        return max(0, self._sending_us - elapsed_us) if elapsed_us >= 0 else 0

    def write(self, buffer):
        """Start to send; returns the number of bytes."""
        count = os.write(self._file, buffer) if _CPYTHON else self._file.write(buffer)
        self._sending_us = self._left_us() + (count or 0) * self._char_us
        self._sent_at_us = time.ticks_us()
        return count

    def txdone(self):
        """Whether the last bit has left."""
        return not self._left_us()

    def flush(self):
        """Wait until the last bit has left."""
        while not self.txdone():
            time.sleep_us(100)

    def close(self):
        """Give the port back."""
        if _CPYTHON:
            os.close(self._file)
        else:
            self._file.close()
