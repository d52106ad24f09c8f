"""Meter profiles on the host: a meter's quantities as register words, and what words say exactly.

The files are those of the device (drivers/meter_profiles), the arithmetic is not: decimal numbers
and `struct` here, integers there, so that each can be held against the other.
"""

import json
import struct
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import NamedTuple

from evmeter_tools.errors import UserError
from evmeter_tools.paths import ROOT

_FOLDER = ROOT / "drivers" / "meter_profiles"
# 10**n of a unit's thousandth: what the firmware counts in
_THOUSANDTHS = {"V": 3, "A": 3, "W": 3, "kW": 6, "Hz": 3, "Wh": 3, "kWh": 6, "VA": 3, "kVA": 6,
                "var": 3, "kvar": 6, "": 3, "%": 1}
# where a register gives the exponent: the emulated meter's, so that 100 kW fit into 16 bits
_SCALES = {"V": -1, "A": -2, "Hz": -2, "W": 1, "VA": 1, "var": 1, "%": -1, "Wh": 1}
_FORMATS = {"u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q"}
_MANTISSA = {"t5": (0, 2**24 - 1), "t6": (-(2**23), 2**23 - 1)}
_LEAST_EXPONENT = -4  # of a T5 or T6


def profile_names():
    """The names of all profiles, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def _words(data):
    return [data[at] << 8 | data[at + 1] for at in range(0, len(data), 2)]


def _bytes(words):
    return b"".join(word.to_bytes(2, "big") for word in words)


def _rounded(value):
    return int(value.to_integral_value(ROUND_HALF_UP))


class Register(NamedTuple):
    """One quantity of a profile. `scale_at` is the address of its scale factor, or None."""

    name: str
    section: str
    address: int
    kind: str
    unit: str
    exponent: int
    scale_at: int | None
    little: bool

    @property
    def scale(self):
        """The scale factor of the emulated meter."""
        return 0 if self.scale_at is None else _SCALES[self.unit]

    @property
    def step(self):
        """What one in the register is worth, in the unit of `words`."""
        return Decimal(1).scaleb(self.exponent + self.scale + _THOUSANDTHS[self.unit] - 3)

    def words(self, value):
        """The register words of `value`, a Decimal in V, A, W, VA, var, Hz, Wh or 1, as the
        emulated meter gives it: integers rounded half up. Raises OverflowError where it does not
        fit."""
        raw = Decimal(value) / self.step
        if self.kind == "f32":
            words = _words(struct.pack(">f", raw))
        elif self.kind in _MANTISSA:
            words = self._iskra(raw)
        else:
            try:
                words = _words(struct.pack(_FORMATS[self.kind], _rounded(raw)))
            except struct.error as error:
                raise OverflowError("%s of %s: %s" % (self.name, value, error)) from None
        return words[::-1] if self.little else words

    def _iskra(self, raw):
        least, most = _MANTISSA[self.kind]
        exponent = _LEAST_EXPONENT
        mantissa = _rounded(raw.scaleb(-exponent))
        while not least <= mantissa <= most:
            exponent += 1
            mantissa = _rounded(raw.scaleb(-exponent))
        return _words(bytes([exponent & 0xFF]) + (mantissa & 0xFFFFFF).to_bytes(3, "big"))

    def exact(self, words, scale=None):
        """What the words say, in the thousandths that the firmware counts in (mV, mWh ...),
        rounded half away from zero; `scale` is the scale factor's value."""
        data = _bytes(words[::-1] if self.little else words)
        exponent = self.exponent + (self.scale if scale is None else scale)
        if self.kind == "f32":
            number = Fraction(struct.unpack(">f", data)[0])
        elif self.kind in _MANTISSA:
            exponent += int.from_bytes(data[:1], "big", signed=True)
            number = Fraction(int.from_bytes(data[1:], "big", signed=self.kind == "t6"))
        else:
            number = Fraction(struct.unpack(_FORMATS[self.kind], data)[0])
        number *= Fraction(10) ** (exponent + _THOUSANDTHS[self.unit])
        size = abs(number) + Fraction(1, 2)
        return (size.numerator // size.denominator) * (1 if number >= 0 else -1)


class Profile:
    """A profile as the emulated meter needs it. Raises UserError for an unknown name.

    `registers`: the quantities; `energy`: the one that stands for import; `identity`: name ->
    (address, type); `data`: the file.
    """

    def __init__(self, name):
        if name not in profile_names():
            raise UserError("meter profile %s is not known; there is: %s"
                            % (name, ", ".join(profile_names())))
        self.name = name
        self.data = data = json.loads((_FOLDER / (name + ".json")).read_text())
        self.eastron = data["make"] == "Eastron"
        self.phases = data["phases"]
        self.function = data["function"]
        self.identity_function = data.get("identity_function", 3)
        self.max_registers = data["max_registers"]
        self.latency_ms = data.get("latency_ms", 300)
        self.identity = {key: (int(row[0], 16), row[1])
                         for key, row in data.get("identity", {}).items()}
        self.registers = [self._register(section, key, row) for section in ("billing", "slow")
                          for key, row in data.get(section, {}).items()]
        self.energy = next(register for register in self.registers
                           if register.name in ("import", "total"))

    def _register(self, section, name, row):
        row = [*row, *["", 0, None][len(row) - 2 :]]
        return Register(name, section, int(row[0], 16), row[1], row[2], row[3],
                        None if row[4] is None else int(row[4], 16),
                        self.data["order"] == "little")

    def words(self, values):
        """Address -> word of all quantities and scale factors. `values`: name -> Decimal in V, A,
        W, VA, var, Hz, Wh or 1."""
        found = {}
        for register in self.registers:
            for index, word in enumerate(register.words(values[register.name])):
                found[register.address + index] = word
            if register.scale_at is not None:
                found[register.scale_at] = register.scale & 0xFFFF
        return found

    def identity_words(self, serial, code, firmware):
        """Address -> word of what the meter says about itself. A whole number where the register
        is one, printed where it is text."""
        given = {"serial": serial, "code": code, "firmware": firmware}
        found = {}
        for name, (address, kind) in self.identity.items():
            if kind in _FORMATS:
                data = struct.pack(_FORMATS[kind], given[name])
            else:
                data = str(given[name]).encode("ascii").ljust(2 * int(kind[3:]), b"\0")
            for index, word in enumerate(_words(data)):
                found[address + index] = word
        return found
