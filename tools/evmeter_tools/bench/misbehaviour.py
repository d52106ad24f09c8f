"""What an emulated meter can do wrong: damaged, late and false replies, and values that cannot be.

Each kind is one of the bus faults that a charger must withstand; `evmeter emulate meter --fault`.
"""

import random
import struct
from decimal import Decimal

from evmeter_tools.errors import UserError

_NOISE = 7
_LATE_MS = 150  # over the profile's latency limit
_JUMP_WH = 1_000_000
_FLOATS = {"nan": 0x7FC00000, "inf": 0x7F800000}


def crc16(data):
    """CRC of Modbus, as it goes on the wire."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


def framed(*body):
    """A frame with its CRC."""
    return bytes(body) + crc16(body)


class Misbehaviour:
    """Every `every`-th reply has the fault `kind`, a key of KINDS. Raises UserError for one that
    there is not, or that the registers of `profile` cannot have."""

    def __init__(self, profile, kind, every=1):
        if kind not in KINDS:
            raise UserError("--fault %s: allowed: %s" % (kind, ", ".join(KINDS)))
        energy = profile.energy
        if kind in _FLOATS and energy.kind != "f32":
            raise UserError("--fault %s: %s has no float32 in its energy register"
                            % (kind, profile.name))
        if kind == "negative" and energy.kind[0] == "u":
            raise UserError("--fault negative: the energy register of %s has no sign"
                            % profile.name)
        self._profile = profile
        self._kind = kind
        self._every = every
        self._count = 0
        self._request = b""
        self._rng = random.Random(1)
        self.now = False  # whether the reply under way is to be spoilt
        self.spoilt = 0

    def asked(self, unit, function, address, count):
        """A request has come; returns by how many ms its reply is to be late."""
        self._count += 1
        self.now = self._count % self._every == 0
        self._request = framed(unit, function, address >> 8, address & 0xFF, 0, count)
        self.spoilt += self.now
        return self._profile.latency_ms + _LATE_MS if self.now and self._kind == "late" else 0

    def values(self, values):
        """The quantities, with the energy where it cannot be."""
        name = self._profile.energy.name
        if self.now and self._kind in ("negative", "step-back", "jump"):
            wh = values[name]
            values[name] = {"negative": -abs(wh) - 1000, "step-back": wh * 9 // 10,
                            "jump": wh + _JUMP_WH}[self._kind]
        return values

    def words(self, words):
        """The registers, address -> word, with codes that no value has."""
        energy = self._profile.energy
        if not self.now:
            return words
        if self._kind in _FLOATS:
            pair = struct.unpack(">HH", struct.pack(">I", _FLOATS[self._kind]))
            words[energy.address + energy.little], words[energy.address + 1 - energy.little] = pair
        elif self._kind == "word-swapped":
            for register in self._profile.registers:
                count = len(register.words(Decimal(0)))
                block = [words[register.address + index] for index in range(count)]
                for index in range(count):
                    words[register.address + index] = block[count - 1 - index]
        elif self._kind == "zeros":
            words = dict.fromkeys(words, 0)
        return words

    def reply(self, frame):
        """The bytes to send instead of `frame`."""
        spoil = KINDS[self._kind]
        return bytes(spoil(self, frame)) if self.now and spoil else frame

    def _noise(self):
        return self._rng.randbytes(_NOISE)

    def _inside(self, frame):
        at = self._rng.randrange(1, len(frame))
        return frame[:at] + self._noise() + frame[at:]


def _exception(code):
    return lambda fault, frame: framed(frame[0], frame[1] | 0x80, code)


KINDS = {
    "noise-before": lambda fault, frame: fault._noise() + frame,
    "noise-after": lambda fault, frame: frame + fault._noise(),
    "noise-inside": Misbehaviour._inside,
    "truncated": lambda fault, frame: frame[: fault._rng.randrange(1, len(frame))],
    "late": None,
    "echo": lambda fault, frame: fault._request + frame,
    "other-unit": lambda fault, frame: framed(frame[0] % 247 + 1, *frame[1:-2]),
    "exception-2": _exception(2),
    "exception-4": _exception(4),
    "exception-6": _exception(6),
    "bad-crc": lambda fault, frame: frame[:-1] + bytes([frame[-1] ^ 0x5A]),
    "silent": lambda fault, frame: b"",
    "nan": None, "inf": None, "negative": None, "step-back": None, "jump": None,
    "word-swapped": None, "zeros": None,
}
