"""Bytes from the meter's line: replies, registers, and what the gate makes of them."""

import hashlib
import struct
from fractions import Fraction

from drivers.modbus_rtu import ModbusError, find_reply
from evmeter.metering.gate import Gate
from evmeter.metering.reading import Reading
from evmeter.metering.registers import WORDS, decode

_P_MAX_W = 11000
_STEP_MWH = 1000
_EXPONENTS = 19  # from -9 to 9
_FLOAT_END = 2 ** 40  # larger ones are no quantity of a meter
_TEN_END = 19  # likewise for the decimal exponent of t5 and t6
_CODES = {"u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "f32": ">f", "u64": ">Q",
          "i64": ">q", "t5": ">I", "t6": ">I"}
_KINDS = sorted(_CODES)


def crc(data):
    """CRC-16 of Modbus, bit by bit: not the code that is under test."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


def _first(line, head, size):
    """Where the first frame of `size` bytes with this head and a right CRC begins, or -1."""
    at = line.find(head)
    while 0 <= at <= len(line) - size:
        if crc(line[at:at + size - 2]) == line[at + size - 2:at + size]:
            return at
        at = line.find(head, at + 1)
    return -1


def modbus(data):
    """Unit, function and count, then what came over the line."""
    if len(data) < 3:
        return
    unit, function, count = data[0] or 1, 3 + (data[1] & 1), 1 + data[2] % 125
    line = data[3:291]
    # Half of the inputs get right CRCs at a place that they choose, which mutation hardly finds.
    if len(line) > 6 and data[1] & 2:
        end = 3 + line[2] + 2
        if end <= len(line):
            line = line[: end - 2] + crc(line[: end - 2]) + line[end:]
    reply = _first(line, bytes((unit, function, 2 * count)), 5 + 2 * count)
    refusal = _first(line, bytes((unit, function | 0x80)), 5)
    refused = refusal >= 0 and not 0 <= reply < refusal
    try:
        at = find_reply(line, len(line), unit, function, count)
    except ModbusError as error:
        assert refused and error.code == line[refusal + 2], "an exception that was not there"
        return
    assert not refused, "an exception was not seen"
    if reply >= 0:
        assert at == reply + 3, "the reply was not found"
    else:
        assert 0 < -at <= 5 + 2 * count, "a reply that is not there, or more missing than it has"


def number_of(data, kind, little):
    """What the register bytes mean, by other code than the firmware's; None for no number."""
    words = [data[at:at + 2] for at in range(0, len(data), 2)]
    number = struct.unpack(_CODES[kind], b"".join(reversed(words) if little else words))[0]
    if kind == "f32":
        return Fraction(number) if abs(number) < _FLOAT_END else None  # false for NaN too
    if kind in ("t5", "t6"):
        own, mantissa = struct.unpack(">bI", number.to_bytes(4, "big")[:1] + b"\0"
                                      + number.to_bytes(4, "big")[1:])
        if kind == "t6":
            mantissa -= (mantissa >> 23) << 24
        return mantissa, own
    return Fraction(number)


def _rounded(value):
    """Half away from zero."""
    whole = (2 * abs(value.numerator) + value.denominator) // (2 * value.denominator)
    return -whole if value < 0 else whole


def check_decoded(data, kind, exponent, little, found):
    """Hold `found` against the exact value of the register times 10**exponent."""
    number = number_of(data, kind, little)
    if isinstance(number, tuple):
        mantissa, own = number
        number = Fraction(mantissa)
        exponent += own
        if exponent > _TEN_END:
            number = None
    if number is None:
        assert found is None, "a number where there is none"
        return
    assert type(found) is int, "no number where there is one"
    assert found == _rounded(number * Fraction(10) ** exponent), (kind, exponent)


def registers(data):
    """One register of a kind: exact to its own bits, or "not available" where that is said."""
    if len(data) < 4:
        return
    kind = _KINDS[data[0] % len(_KINDS)]
    exponent = data[1] % _EXPONENTS - 9
    little = bool(data[2] & 1)
    at = data[3] % 4
    length = 2 * WORDS[kind]
    # Half of the registers are filled at random: mutation likes short inputs.
    data = hashlib.sha256(data).digest() if data[2] & 2 else data[4:]
    data += bytes(max(0, at + length - len(data)))
    piece = data[at:at + length]
    check_decoded(piece, kind, exponent, little, decode(data, at, kind, exponent, little))
    if kind != "f32":
        words = b"".join(piece[at:at + 2] for at in (range(length - 2, -1, -2) if little
                                                     else range(0, length, 2)))
        code = int.from_bytes(words, "big", signed=kind[0] == "i")
        assert decode(data, at, kind, exponent, little, code) is None, "not available"
        assert decode(data, at, kind, exponent, little, code ^ 1) is not None or kind[0] == "t"


def gate(data):
    """A meter's registers, reply after reply: what is believed must be possible."""
    rules = Gate(_P_MAX_W, _STEP_MWH, rollover_mwh=10 ** 11 if data[:1] > b"\x7f" else 0)
    reading = Reading(1)
    now_ms = 0
    before = None
    for at in range(1, min(len(data) - 11, 240), 12):
        kind = _KINDS[data[at] % len(_KINDS)]
        exponent = data[at + 1] % _EXPONENTS - 9
        little = bool(data[at + 2] & 1)
        now_ms += data[at + 3] << (data[at + 2] >> 4)
        found = decode(data, at + 4, kind, exponent, little)
        reading.quality, reading.reason = "G", ""
        reading.voltages_mv[0] = decode(data, at + 8, "u16", 2)
        reading.import_mwh, reading.mono_ms = found, now_ms
        if not rules.judge(reading):
            assert reading.quality != "G" and reading.reason, "refused without a word"
            continue
        assert found is not None and found >= 0 and reading.quality == "G", "no energy"
        if before and not rules.event:
            old_mwh, old_ms = before
            most = (_P_MAX_W * (now_ms - old_ms) / 3600 + 1
                    + max(_STEP_MWH, (found >> 23) + 1))
            assert 0 <= found - old_mwh <= most, "a step that cannot be"
        before = found, now_ms
