"""Modbus RTU master on asyncio.

Sources: Modbus over Serial Line 1.02 (framing, CRC, silent intervals), Modbus Application Protocol
1.1b3 (exceptions). A UART with a FIFO cannot enforce the 1.5-character rule inside a frame, so a
reply is recognised by its expected length and its CRC, and silence is only a timeout.
"""

import asyncio
import time

from micropython import const

from evmeter.metering.reading import MeterError
from evmeter.metering.turn import Turn

MAX_REGISTERS = const(125)
_REQUEST = const(8)
_OVERHEAD = const(5)  # of a reply: unit, function, byte count, CRC; and the length of an exception
_ROOM = const(288)  # the longest reply, an echo of the request, and noise
_TRIES = const(3)
_DRAIN_ROUNDS = const(4)
_TAKEN_STEP_MS = const(2)
# permanent for this register: illegal function, address, value
_PERMANENT = (1, 2, 3)
# what four bits do to the CRC
_CRC = (0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401,
        0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01, 0x8801, 0x4400)


class ModbusError(MeterError):
    """No usable reply. `code` is the Modbus exception code, 0 for anything else."""

    def __init__(self, text, letter="F", code=0):
        super().__init__(text, letter)
        self.code = code


def crc16(data, start, end):
    """CRC of `data[start:end]`; it goes on the wire low byte first."""
    table = _CRC
    crc = 0xFFFF
    for index in range(start, end):
        crc ^= data[index]
        crc = (crc >> 4) ^ table[crc & 15]
        crc = (crc >> 4) ^ table[crc & 15]
    return crc


def build_request(frame, unit, function, address, count):
    """Write a read request into `frame`, a bytearray of 8: unit 1 to 247, function 3 or 4,
    0-based address, 1 to 125 registers. Raises ValueError outside of these."""
    if not (1 <= unit <= 247 and function in (3, 4) and 1 <= count <= MAX_REGISTERS
            and 0 <= address <= 0x10000 - count):
        raise ValueError("no Modbus read: unit %s, function %s, address %s, %s registers"
                         % (unit, function, address, count))
    frame[0] = unit
    frame[1] = function
    frame[2] = address >> 8
    frame[3] = address & 0xFF
    frame[4] = 0
    frame[5] = count
    crc = crc16(frame, 0, 6)
    frame[6] = crc & 0xFF
    frame[7] = crc >> 8


def find_reply(data, length, unit, function, count):
    """Look in the first `length` bytes of `data` for the reply to a read of `count` registers.

    It counts only with the exact unit, function, byte count and CRC; what lies before or behind it
    (noise, the request's echo, a foreign frame) is ignored. Returns the offset of its first data
    byte; or, negative, how many bytes are missing at least. Raises ModbusError with the code when
    an exception reply to this request is found.
    """
    whole = _OVERHEAD + 2 * count
    missing = whole
    for start in range(length - 1):
        if data[start] != unit:
            continue
        if data[start + 1] == function:
            size = whole
            if start + 2 < length and data[start + 2] != 2 * count:
                continue
        elif data[start + 1] == function | 0x80:
            size = _OVERHEAD
        else:
            continue
        end = start + size
        if end > length:
            missing = min(missing, end - length)
        elif crc16(data, start, end - 2) == data[end - 2] | data[end - 1] << 8:
            if size != whole or data[start + 1] != function:
                code = data[start + 2]
                raise ModbusError("exception %d from unit %d" % (code, unit), "F", code)
            return start + 3
    return -missing


class ModbusRtu:
    """The master of one bus.

    `uart` is used like machine.UART: any, readinto, write, flush. `baud` and `char_bits` (10 for
    8N1, 11 with parity or a second stop bit) give the wire times. `de(1)` turns an RS-485
    transceiver without automatic direction to sending, `de(0)` back. `gap_ms`: silence before a
    request, at least 3.5 characters (1.75 ms above 19200 baud).

    `quiet` is a Turn: inside `async with bus.quiet` no request is on its way. Counters for
    diagnosis: `requests`, `timeouts` (no byte came), `damaged` (bytes, but no valid reply),
    `exceptions`.
    """

    def __init__(self, uart, baud, char_bits=10, de=None, gap_ms=0, ticks=time, sleep_ms=None):
        self._uart = uart
        self._de = de
        self._ticks_ms = ticks.ticks_ms
        self._ticks_diff = ticks.ticks_diff
        self._sleep_ms = sleep_ms or asyncio.sleep_ms
        self.char_us = (char_bits * 1000000 + baud - 1) // baud
        silence_us = 1750 if baud > 19200 else self.char_us * 7 // 2
        self._silence_ms = silence_us // 1000 + 1
        self.gap_ms = gap_ms
        self.quiet = Turn(sleep_ms)
        self._request = bytearray(_REQUEST)
        self._buffer = bytearray(_ROOM)
        self._view = memoryview(self._buffer)
        self._data = self._view[3:]
        self._length = 0  # of what has come since the request
        # of the last request; of the last byte on the line, as far as that is known
        self._sent_ms = self._last_ms = self._ticks_ms()
        self._owed = -1  # address of a request that got no reply in time, or -1
        self.asked = None
        self.requests = self.timeouts = self.damaged = self.exceptions = 0

    def _wire_ms(self, chars):
        return (chars * self.char_us + 999) // 1000

    def _since(self, ticks_ms):
        return self._ticks_diff(self._ticks_ms(), ticks_ms)

    def _pause_ms(self, address, count, latency_ms):
        """Throw away what came unasked for; how long to wait before a request."""
        heard = 0
        while heard < _DRAIN_ROUNDS and self._uart.any():
            self._uart.readinto(self._buffer)
            self._last_ms = self._ticks_ms()
            heard += 1
        pause_ms = max(self.gap_ms, self._silence_ms) + 1
        idle_ms = self._since(self._last_ms)
        pause_ms = pause_ms - idle_ms if 0 <= idle_ms < pause_ms else 0
        if self._owed >= 0 and self._owed != address:
            # That reply may still come, and could pass for this request's: a meter is given
            # twice its latency limit for it.
            self._owed = -1
            pause_ms = max(pause_ms, 2 * latency_ms + self._wire_ms(_OVERHEAD + 2 * count)
                           - self._since(self._sent_ms))
        return pause_ms

    def _send(self, unit, function, address, count):
        """Put the request on the line; returns the ms before which no reply can be complete.

        With a direction pin in one go: an asyncio sleep could keep the transceiver sending into
        the reply. It blocks for the frame, 37 ms at 2400 baud and 11 bits.
        """
        request, uart, de = self._request, self._uart, self._de
        build_request(request, unit, function, address, count)
        self.requests += 1
        self._length = 0
        wait_ms = self._wire_ms(_OVERHEAD + 2 * count)
        if de:
            de(1)
        try:
            if uart.write(request) != _REQUEST:
                raise OSError("request not taken")
            if de:
                uart.flush()
            else:
                wait_ms += self._wire_ms(_REQUEST)
        finally:
            if de:
                de(0)
        self._sent_ms = self._ticks_ms()
        return wait_ms

    def _receive(self, unit, function, count, limit_ms):
        """Take what came. Returns 0 once the reply lies at the start of the buffer, the ms before
        which it cannot be complete, or -1 when it did not come in time."""
        passed_ms = self._since(self._sent_ms)
        buffer = self._buffer
        length = self._length
        more = min(self._uart.any(), _ROOM - length)
        if more:
            room = self._view[length:] if length else buffer
            length += self._uart.readinto(room, more) or 0
            self._last_ms = self._ticks_ms()
        at = find_reply(buffer, length, unit, function, count)
        self._length = length if length < _ROOM else 0  # full: noise only
        if at >= 0:
            if at > 3:
                for index in range(2 * count):
                    buffer[3 + index] = buffer[at + index]
            return 0
        if passed_ms < limit_ms:
            return min(self._wire_ms(-at), limit_ms - passed_ms)
        self._last_ms = self._ticks_ms()
        if length:
            self.damaged += 1
        else:
            self.timeouts += 1
        return -1

    async def read(self, unit, function, address, count, latency_ms=300):
        """Read `count` registers; returns a memoryview that begins with their 2 * count bytes,
        valid until the next await. Limits and errors as in `read_each`."""
        await self.read_each(unit, function, ((address, count),), 0, None, latency_ms)
        return self._data

    async def read_each(self, unit, function, requests, index, take, latency_ms=300):
        """Make the `requests` (address, count, ...) from `index` on, with `take(request, data)`
        after each; `data` is as `read` returns it. `asked` is the request in work.

        At most 3 tries, each with the deadline wire time plus `latency_ms`. Raises ModbusError:
        letter T when nothing came, F when what came was damaged or an exception, D when the UART
        failed. Exceptions 1, 2 and 3 are final, the others are tried again.
        """
        # One coroutine for all requests: each would cost the heap 160 bytes a poll.
        turn = self.quiet
        tries = _TRIES
        while index < len(requests):
            request = self.asked = requests[index]
            address, count = request[0], request[1]
            tries -= 1
            while turn.taken or turn.waiting:
                await self._sleep_ms(_TAKEN_STEP_MS)
            turn.taken = True
            try:
                limit_ms = _DRAIN_ROUNDS  # a line that is never silent gets no more time
                wait_ms = self._pause_ms(address, count, latency_ms)
                while wait_ms and limit_ms:
                    limit_ms -= 1
                    await self._sleep_ms(wait_ms)
                    wait_ms = self._pause_ms(address, count, latency_ms)
                wait_ms = self._send(unit, function, address, count)
                limit_ms = wait_ms + latency_ms
                while wait_ms > 0:
                    await self._sleep_ms(wait_ms)
                    wait_ms = self._receive(unit, function, count, limit_ms)
                if not wait_ms:
                    if take:
                        take(request, self._data)
                    index += 1
                    tries = _TRIES
                    continue
                self._owed = address
                if not tries:
                    if self._length:
                        raise ModbusError("damaged reply from unit %d" % unit)
                    raise ModbusError("no reply from unit %d" % unit, "T")
            except ModbusError as error:
                if error.code:
                    self.exceptions += 1
                if not tries or error.code in _PERMANENT:
                    raise
            except OSError as error:
                raise ModbusError("UART: %s" % error, "D") from None
            finally:
                turn.taken = False
