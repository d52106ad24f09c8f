"""A profile's registers the meter's way round: from values to bytes, and what the bytes mean.

Values are whole numbers of mV, mA, mW, mHz and mWh. Nothing here is the code that is under test.
"""

import json
import struct
from decimal import ROUND_HALF_UP, Decimal

from evmeter_tools.paths import ROOT

_FOLDER = ROOT / "drivers/meter_profiles"
_WORDS = {"u16": 1, "i16": 1, "u32": 2, "i32": 2, "f32": 2, "t5": 2, "t6": 2, "u64": 4, "i64": 4}
_TEXT_WORDS = {"str2": 2, "str8": 8, "str16": 16}
_SCALE = 1  # SunSpec: what stands in the scale factor of the energy; others have -2
_MOST_SCALE = 10
_PLACES = {"voltage": "voltages_mv", "current": "currents_ma", "power": "power_mw",
           "frequency": "frequency_mhz", "import": "import_mwh", "export": "export_mwh"}
ROLLOVER_MWH = 10**12


def profiles():
    """The SDM120; a meter whose requests differ in nothing but the address; scaled int32 with the
    low word first, which rolls over; float32 with int64; SunSpec; Iskra's T5 and T6."""
    names = ("eastron_sdm120", "cg_em111_em112", "schneider_iem3155", "bauer_bsm_ws36a",
             "iskra_wm3m4c")
    found = [json.loads((_FOLDER / (name + ".json")).read_text()) for name in names]
    found[1]["rollover_mwh"] = ROLLOVER_MWH
    alike = dict(found[0], model="alike", identity={}, gap_ms=0, billing={
        "voltage_l1": ["0x0000", "f32", "V"], "current_l1": ["0x0100", "f32", "A"],
        "power": ["0x0200", "f32", "W"], "import": ["0x0300", "f32", "kWh"]})
    return [found[0], alike, *found[1:]]


def place(name):
    """(attribute of Reading, index or None) of a quantity."""
    if name[-3:-1] == "_l":
        return _PLACES[name[:-3]], int(name[-1]) - 1
    return _PLACES[name], None


class Row:
    """One quantity's register."""

    def __init__(self, name, row, little, missing):
        text, self.kind, unit, exponent, scale = row + [0, None][len(row) - 3:]
        self.name = name
        self.at = int(text, 16)
        self.words = _WORDS[self.kind]
        self.scale_at = None if scale is None else int(scale, 16)
        self.scale = 0 if scale is None else _SCALE if unit == "Wh" else -2
        # the register times 10**exponent is the value in thousandths
        self.exponent = exponent + self.scale + (6 if unit[0] == "k" else 3)
        self.missing = missing.get(self.kind)
        self.signed = self.kind[0] in "if" or self.kind == "t6"
        self._little = little

    def step(self):
        """What one count of the register is worth, at least 1; of a float32 1/1000 of its unit."""
        if self.kind[0] in "ft":
            return 1
        return max(1, 10**self.exponent)

    def _ordered(self, data):
        """The bytes with their words in the order on the wire, or back."""
        if not self._little:
            return data
        return b"".join(data[at:at + 2] for at in range(len(data) - 2, -1, -2))

    def encode(self, value):
        """The register's bytes for a value."""
        if self.kind == "f32":
            return self._ordered(struct.pack(">f", value / 10**self.exponent))
        if self.kind[0] == "t":
            own = -self.exponent  # so that the mantissa is the value in thousandths
            while abs(value) >= 1 << 23:
                value //= 10
                own += 1
            return self._ordered(struct.pack(">b", own) + (value & 0xFFFFFF).to_bytes(3, "big"))
        number = int(Decimal(value).scaleb(-self.exponent).to_integral_value("ROUND_FLOOR"))
        return self.count(number)

    def count(self, number):
        """The register's bytes for a number of its own counts; it wraps."""
        return self._ordered((number % (1 << 16 * self.words)).to_bytes(2 * self.words, "big"))

    def meaning(self, data, scale=None):
        """The value in the register's bytes; None for no number, and for "not available".
        `scale`: the scale factor, where it is not the meter's own."""
        data = self._ordered(bytes(data))
        exponent = self.exponent
        if scale is not None:
            exponent += scale - self.scale
            if abs(scale) > _MOST_SCALE:
                return None
        if self.kind == "f32":
            if data[0] & 0x7F == 0x7F and data[1] & 0x80:
                return None
            number = Decimal(struct.unpack(">f", data)[0])
        elif self.kind[0] == "t":
            number = int.from_bytes(data[1:], "big", signed=self.kind == "t6")
            exponent += int.from_bytes(data[:1], "big", signed=True)
        else:
            number = int.from_bytes(data, "big", signed=self.signed)
            if number == self.missing:
                return None
        return int(Decimal(number).scaleb(exponent).to_integral_value(ROUND_HALF_UP))

    def no_number(self, rng):
        """Bytes that are no number, or None where this register has none."""
        if self.kind == "f32":
            return self._ordered(rng.choice((
                b"\x7f\xc0\0\0", b"\xff\xff\xff\xff", b"\x7f\x80\0\0", b"\xff\x80\0\0",
                b"\x7f\x80\0\x01")))
        if self.kind[0] == "t":
            return self._ordered(b"\x7f" + rng.randbytes(3))
        return None if self.missing is None else self.count(self.missing)


def rows(profile):
    """The profile's billing set as Rows."""
    return [Row(name, row, profile["order"] == "little", profile.get("missing", {}))
            for name, row in profile["billing"].items()]


def identity(profile, serial):
    """address -> register bytes of what the meter says of itself."""
    found = {}
    for name, (address, kind) in profile.get("identity", {}).items():
        words = _TEXT_WORDS.get(kind) or _WORDS[kind]
        number = serial if name == "serial" else 0x20
        found[int(address, 16)] = (b"%d" % number if kind in _TEXT_WORDS
                                   else number.to_bytes(2 * words, "big")).ljust(2 * words, b" ")
    return found
