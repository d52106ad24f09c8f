"""The records that a Bauer BSM-WS36A signs itself, over Modbus; loaded where they are passed on.

Source: chargeIT mobility's documentation for integrators (github.com/chargeITmobility/bsm-python,
doc/examples: snapshots, ocmf, time); addresses from 0. A snapshot is made by writing 2 to its
status. The start and end snapshots, from firmware 1.8 on, switch no contactor. The meter may not
answer until its signature is made, 15 s at most. Its clock is lost without power, and is set at
most once a day: more often shortens the meter's life.
"""

import binascii

from micropython import const

from drivers.modbus_rtu import MAX_REGISTERS, ModbusError, build_request, crc16, find_reply

_WRITE = const(16)
_READ = const(3)
_REPLY = const(8)
_TRIES = const(3)
_PAUSES = const(4)
_MOST_CODES = const(12)
_MOST_HEARD = const(64)
_STEP_MS = const(5)
_FLUSH_MS = const(20)
_SIGNING_MS = const(15000)
_REST_MS = const(1200)
_LOOKS = const(15)  # at a status that says "updating"; one without a reply counts for five
# TX letter -> addresses of the models "signed start/end snapshot" and its OCMF
_MODELS = {"B": (41283, 43291), "E": (41537, 43791)}
_SNAPSHOT = b"\xfd\x85\x00\xfc"  # how they begin: number 64901, 252 registers
_OCMF = b"\xfd\x87\x01\xf2"  # 64903, 498
_STATUS_AT = const(3)
_TEXT_AT = const(4)
_TEXT_REGISTERS = const(496)
_VALID = const(0)
_UPDATING = const(2)
_KEY = const(40449)  # registers of room, bytes, the key's DER
_KEY_REGISTERS = const(50)
_KEY_BYTES = const(91)
_EPOCH = const(40260)  # Unix seconds, then the zone's offset in minutes
_NO_TIME = b"\xff\xff\xff\xff"
_CALLED = const(40279)  # "Meta1": what the record has as the user's identification
_CALLED_BYTES = const(140)
_DAY_S = const(86400)


def _exception(data, unit, function):
    """The code of an exception reply, 0 where there is none."""
    for code in range(1, _MOST_CODES):
        body = bytes((unit, function | 0x80, code))
        if body + crc16(body, 0, 3).to_bytes(2, "little") in data:
            return code
    return 0


async def _transmit(bus, frame):
    """Put a frame on the line. Unlike a read request it is too long to block the loop for: only
    its end is waited for in one go, so that the transceiver is not turned back too late."""
    uart, de = bus._uart, bus._de
    wire_ms = bus._wire_ms(len(frame))
    if de:
        de(1)
    try:
        if uart.write(frame) != len(frame):
            raise OSError("request not taken")
        await bus._sleep_ms(max(0, wire_ms - _FLUSH_MS) if de else wire_ms)
        if de:
            uart.flush()
    finally:
        if de:
            de(0)


async def _exchange(bus, frame, found, latency_ms):
    """Send a frame once; what `found(bytes heard)` returns, None where nothing was found in time.
    Raises ModbusError for an exception reply, or where the UART fails."""
    async with bus.quiet:
        try:
            for _ in range(_PAUSES):
                pause_ms = bus._pause_ms(frame[2] << 8 | frame[3], 1, latency_ms)
                if not pause_ms:
                    break
                await bus._sleep_ms(pause_ms)
            await _transmit(bus, frame)
            bus.requests += 1
            data = b""
            left_ms = bus._wire_ms(_REPLY) + latency_ms
            while left_ms > 0:
                await bus._sleep_ms(_STEP_MS)
                left_ms -= _STEP_MS
                waiting = min(bus._uart.any(), len(bus._buffer))
                if waiting:
                    waiting = bus._uart.readinto(bus._buffer, waiting) or 0
                    data = (data + bus._buffer[:waiting])[-_MOST_HEARD:]
                    bus._last_ms = bus._ticks_ms()
                    reply = found(data)
                    if reply is not None:
                        return reply
        except OSError as error:
            raise ModbusError("UART: %s" % error, "D") from None
    code = _exception(data, frame[0], frame[1])
    if code:
        bus.exceptions += 1
        raise ModbusError("exception %d from unit %d" % (code, frame[0]), "F", code)
    return None


async def write(bus, unit, address, data, latency_ms):
    """Write registers by function 16 on `bus` (a ModbusRtu); `data` has their bytes, 2 to 246.
    At most 3 tries. Raises ModbusError."""
    frame = bytearray(7 + len(data))
    frame[0] = unit
    frame[1] = _WRITE
    frame[2:4] = address.to_bytes(2, "big")
    frame[4:6] = (len(data) // 2).to_bytes(2, "big")
    frame[6] = len(data)
    frame[7:] = data
    reply = bytes(frame[:6])
    reply += crc16(reply, 0, 6).to_bytes(2, "little")
    frame += crc16(frame, 0, len(frame)).to_bytes(2, "little")
    for _ in range(_TRIES):
        if await _exchange(bus, frame, lambda heard: reply in heard or None, latency_ms):
            return
    raise ModbusError("no reply from unit %d to a write" % unit, "T")


class SigningMeter:
    """The signing part of the meter with number `unit` on `bus` (a ModbusRtu)."""

    def __init__(self, bus, unit, latency_ms=1000):
        self._bus = bus
        self._unit = unit
        self._latency_ms = latency_ms
        self._text = bytearray(2 * _TEXT_REGISTERS)
        self._set_s = None  # when its clock was last set, in seconds since boot

    def _read(self, address, count):
        return self._bus.read(self._unit, _READ, address, count, self._latency_ms)

    def _write(self, address, data):
        return write(self._bus, self._unit, address, data, self._latency_ms)

    async def record(self, letter, called):
        """Have a record made now, at a session's begin ("B") or end ("E"); returns (its OCMF as
        it is, the public key's SubjectPublicKeyInfo in hex). `called`: what identifies session
        and user, at most 140 characters of ASCII. Takes up to 20 s. Raises ModbusError."""
        snapshot, ocmf = _MODELS[letter]
        for address, head in ((snapshot, _SNAPSHOT), (ocmf, _OCMF)):
            if bytes((await self._read(address, 2))[:4]) != head:
                raise ModbusError("the meter has no start and end snapshots; firmware 1.8 is "
                                  "needed")
        name = called.encode()[:_CALLED_BYTES]
        await self._write(_CALLED, name + bytes(_CALLED_BYTES - len(name)))
        await self._write(snapshot + _STATUS_AT, b"\0\2")
        for address in (snapshot + _STATUS_AT, ocmf + _STATUS_AT):
            await self._wait_valid(address)
        text = await self._read_text(ocmf + _TEXT_AT)
        return text, await self._read_key()

    async def _wait_valid(self, address):
        """Wait for a status. Between the tries, each of which holds the bus for up to 15 s, the
        others have their turn: the supervisor resets a chip whose meter is not read for 20 s."""
        unit = self._unit
        frame = bytearray(_REPLY)
        build_request(frame, unit, _READ, address, 1)

        def found(heard):
            at = find_reply(heard, len(heard), unit, _READ, 1)
            return heard[at] << 8 | heard[at + 1] if at > 0 else None

        status = _UPDATING
        left = _LOOKS
        while status in (None, _UPDATING) and left > 0:
            if left < _LOOKS:
                await self._bus._sleep_ms(_REST_MS)
            status = await _exchange(self._bus, frame, found, _SIGNING_MS)
            left -= _LOOKS // _TRIES if status is None else 1
        if status is None:
            raise ModbusError("no reply from unit %d while it signs" % unit, "T")
        if status != _VALID:
            raise ModbusError("the meter made no record: status %d" % status, "E")

    async def _read_text(self, address):
        text = self._text
        length = 0
        while length < len(text):
            count = min(MAX_REGISTERS, (len(text) - length) // 2)
            text[length:length + 2 * count] = (await self._read(address, count))[:2 * count]
            address += count
            end = bytes(text[length:length + 2 * count]).find(b"\0")
            length += 2 * count if end < 0 else end
            if end >= 0:
                break
        found = bytes(text[:length])
        if found[:5] != b"OCMF|" or any([not 31 < byte < 127 for byte in found]):
            raise ModbusError("the meter's record is no OCMF in ASCII")
        return found.decode()

    async def _read_key(self):
        data = await self._read(_KEY, _KEY_REGISTERS)
        if data[2] << 8 | data[3] != _KEY_BYTES:
            raise ModbusError("the meter's public key is none of P-256")
        return binascii.hexlify(bytes(data[4:4 + _KEY_BYTES])).decode()

    async def keep_time(self, unix_s, mono_s):
        """Set its clock, in UTC, where it has lost it or a day has passed. Raises ModbusError."""
        lost = bytes((await self._read(_EPOCH, 2))[:4]) == _NO_TIME
        if self._set_s is None:
            self._set_s = mono_s  # a clock that runs may have been set just before this boot
        if not lost and mono_s - self._set_s < _DAY_S:
            return
        await self._write(_EPOCH, unix_s.to_bytes(4, "big") + b"\0\0")
        self._set_s = mono_s
