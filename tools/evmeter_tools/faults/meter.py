"""A meter and a line that misbehave on purpose, and know what was true.

Every reply that the meter forms is kept with the values in it, so that a reading that was believed
can be held against what the meter had to say, and when.
"""

import json
import random
import struct
from collections import Counter, deque
from decimal import ROUND_HALF_UP, Decimal

from evmeter_tools.paths import ROOT

UNIT = 1
SERIAL = 21034567
P_MAX_W = 11000
_KEPT = 64
_SCALE = {"V": 3, "A": 3, "W": 3, "Hz": 3, "kWh": 6}
ATTRIBUTES = {"voltage_l1": "voltages_mv", "current_l1": "currents_ma", "power": "power_mw",
              "frequency": "frequency_mhz", "import": "import_mwh", "export": "export_mwh"}
_BOUNDED = ("voltage_l1", "frequency", "import", "export")  # what cannot be negative
_CYCLES = ("words swapped", "all zero")
_IDLE_AFTER_US = 350000
_EXCEPTIONS = (1, 2, 3, 4, 5, 6, 11)


def crc(data):
    """CRC-16 of Modbus, bit by bit: not the code that is under test."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


def framed(*body):
    """A frame with its CRC."""
    data = bytes(body)
    return data + crc(data)


def float_words(value):
    """The float32 nearest to `value`, as 4 bytes."""
    return struct.pack(">f", value)


def exact(words, exponent):
    """A float32 times 10**exponent, rounded half away from zero, by decimal arithmetic."""
    number = Decimal(struct.unpack(">f", words)[0])
    return int(number.scaleb(exponent).to_integral_value(ROUND_HALF_UP))


def profiles():
    """The SDM120, and a meter whose requests differ in nothing but the address."""
    text = (ROOT / "drivers/meter_profiles/eastron_sdm120.json").read_text()
    alike = json.loads(text)
    alike.update(model="alike", identity={}, gap_ms=0, billing={
        "voltage_l1": ["0x0000", "f32", "V"], "current_l1": ["0x0100", "f32", "A"],
        "power": ["0x0200", "f32", "W"], "import": ["0x0300", "f32", "kWh"]})
    return json.loads(text), alike


class BadMeter:
    """Answers requests with faults. `believed_mwh()` gives the register that the gate stands at,
    `latency_ms` the profile's limit."""

    def __init__(self, profile, time, register_wh, seed, believed_mwh):
        self._rng = random.Random(seed)
        self._time = time
        self._believed_mwh = believed_mwh
        self._latency_ms = profile["latency_ms"]
        self._rows = {int(row[0], 16): (name, row[2])
                      for name, row in profile["billing"].items()}
        self._energy_mw_ms = register_wh * 3600 * 10**6
        self._load_w = 0
        self._at_ms = 0
        self._count = 0
        self._kind = ""
        self._left = 0
        self._clean = 20
        self._recent = deque(maxlen=_KEPT)  # frames with a right CRC that were sent
        self.requests_each_cycle = 0
        self.first_address = self.last_address = None
        self.served = {}  # address -> (time in us, {quantity: value}) of the replies formed
        self.uart = None
        self.unasked_until_us = 0
        self.edge = False
        self.off = False
        self.injected = Counter()

    # -- what is true --

    def _values(self):
        self._count += 1
        now_ms = self._time.now_us // 1000
        self._energy_mw_ms += self._load_w * 1000 * (now_ms - self._at_ms) if self._at_ms else 0
        self._at_ms = now_ms
        if self._count % 40 == 0:
            self._load_w = self._rng.choice((0, 0, 1380, 3680, 7360, P_MAX_W * 95 // 100))
        # no two replies are alike, so that each can be told from all others
        odd = self._count % 8000
        return {"voltage_l1": 226 + odd / 1000, "current_l1": 1 + odd / 1000,
                "power": self._load_w + odd / 8, "frequency": 46 + odd / 1000,
                "import": self._energy_mw_ms // (3600 * 10**6) / 1000, "export": 0.0}

    def _data(self, function, address, count, served):
        """The register bytes of a true reply."""
        data = bytearray(2 * count)
        if function == 3:
            data[:] = (SERIAL.to_bytes(4, "big") + b"\x00\x20\x02\x05")[:2 * count]
            return data
        values = self._values()
        told = {}
        for at, (name, unit) in self._rows.items():
            if address <= at < address + count:
                words = float_words(values[name])
                data[2 * (at - address):2 * (at - address) + 4] = words
                told[name] = exact(words, _SCALE[unit])
        served.append((self._time.now_us, told))
        return data

    # -- requests --

    def request(self, frame, end_us):
        """Answer a request whose last bit goes out at `end_us`."""
        unit, function, address, count = frame[0], frame[1], frame[2] << 8 | frame[3], frame[5]
        if unit != UNIT or crc(frame[:6]) != frame[6:]:
            raise ValueError("a bad request: %s" % frame.hex())
        served = self.served.setdefault(address, deque(maxlen=_KEPT))
        data = self._data(function, address, count, served)
        delay_us = self._rng.randrange(18000, 45000)
        kind = self._fault(address)
        if kind:
            self.injected[kind] += 1
            replies = getattr(self, "_" + kind.replace(" ", "_"))(frame, data, delay_us)
        else:
            replies = [(delay_us, self._good(frame, data))]
        for pause_us, reply in replies:
            self.uart.deliver(end_us + pause_us, reply)

    def _fault(self, address):
        """The kind of fault that this request meets, or ""."""
        if self.off:
            return ""
        if self._left:
            if self._kind not in _CYCLES or address == self.last_address:
                self._left -= 1
            return self._kind
        if self._clean:
            self._clean -= 1
            return ""
        kind = self._rng.choice(KINDS)
        if kind in _CYCLES and address != self.first_address:
            return ""
        if kind == "unasked" and (
                self.edge or address != self.last_address
                or self._time.now_us - self.served[self.first_address][-1][0] > _IDLE_AFTER_US):
            return ""  # outside of the silence between two polls nothing could tell it apart
        self._kind = kind
        each = self.requests_each_cycle
        self._left = 1 if kind in _CYCLES else self._rng.choice((0, 0, 0, 1, 2, 3))
        if kind == "unasked":
            self._left = 0
        self._clean = self._rng.randrange(each, 3 * each)
        return kind

    # -- replies --

    def _frame(self, unit, function, data):
        reply = framed(unit, function, len(data), *data)
        self._recent.append(reply)
        return reply

    def _good(self, frame, data):
        return self._frame(frame[0], frame[1], data)

    def collided(self, address, believed):
        """Whether what was heard holds a frame with these values and a right CRC that nobody made:
        noise or a damaged frame that CRC-16 cannot tell from a reply."""
        heard = bytes(self.uart.heard)
        for start in range(len(heard) - 4):
            end = start + 5 + heard[start + 2]
            piece = heard[start:end]
            if (piece[0] == UNIT and len(piece) == end - start
                    and crc(piece[:-2]) == piece[-2:] and piece not in self._recent
                    and self._decoded(piece[3:-2], address) == believed):
                return True
        return False

    def _decoded(self, data, address):
        """The quantities in a reply's register bytes."""
        found = {}
        for at, (name, unit) in self._rows.items():
            offset = 2 * (at - address)
            if 0 <= offset <= len(data) - 4:
                words = data[offset:offset + 4]
                if words[0] & 0x7F == 0x7F and words[1] & 0x80:
                    return {}
                found[name] = exact(words, _SCALE[unit])
        return found

    def _bytes(self, least, most):
        return self._rng.randbytes(self._rng.randint(least, most))

    def _noise_before(self, frame, data, delay_us):
        noise = self._bytes(1, 20)
        return [(max(0, delay_us - len(noise) * self.uart.char_us),
                 noise + self._good(frame, data))]

    def _noise_after(self, frame, data, delay_us):
        return [(delay_us, self._good(frame, data) + self._bytes(1, 20))]

    def _noise_inside(self, frame, data, delay_us):
        good = self._good(frame, data)
        at = self._rng.randrange(1, len(good))
        return [(delay_us, good[:at] + self._bytes(1, 4) + good[at:])]

    def _noise_only(self, frame, data, delay_us):
        return [(delay_us, self._bytes(1, 60))]

    def _truncated(self, frame, data, delay_us):
        good = self._good(frame, data)
        return [(delay_us, good[:self._rng.randrange(1, len(good))])]

    def _byte_lost(self, frame, data, delay_us):
        good = self._good(frame, data)
        at = self._rng.randrange(len(good))
        return [(delay_us, good[:at] + good[at + 1:])]

    def _late(self, frame, data, delay_us):
        late_us = self._rng.randrange(self._latency_ms * 1000, 2 * self._latency_ms * 1000 - 20000)
        return [(late_us, self._good(frame, data))]

    def _unasked(self, frame, data, delay_us):
        old = self._rng.choice(self._recent) if self._recent else b"\x00"
        self.unasked_until_us = self._time.now_us + 900000
        return [(delay_us, self._good(frame, data)),
                (self._rng.randrange(200000, 400000), old)]

    def _doubled(self, frame, data, delay_us):
        return [(delay_us, 2 * self._good(frame, data))]

    def _echo(self, frame, data, delay_us):
        return [(-8 * self.uart.char_us, frame), (delay_us, self._good(frame, data))]

    def _echo_only(self, frame, data, delay_us):
        return [(-8 * self.uart.char_us, frame)]

    def _wrong(self, count):
        """Registers that this meter never had."""
        return b"".join(float_words(self._rng.uniform(0.5, 400)) for _ in range(count // 2 + 1))

    def _other_unit(self, frame, data, delay_us):
        unit = self._rng.choice((0, 2, 3, 129, 247, 255))
        other = self._frame(unit, frame[1], self._wrong(len(data) // 2)[:len(data)])
        return [(delay_us, other)]

    def _other_function(self, frame, data, delay_us):
        function = self._rng.choice([one for one in (1, 2, 3, 4, 6, 16, 0x44) if one != frame[1]])
        return [(delay_us, self._frame(UNIT, function,
                                       self._wrong(len(data) // 2)[:len(data)]))]

    def _other_length(self, frame, data, delay_us):
        length = self._rng.choice([one for one in (0, 2, 4, len(data) - 2, len(data) + 2,
                                                   len(data) + 20) if 0 <= one != len(data)])
        return [(delay_us, self._frame(UNIT, frame[1], self._wrong(length // 2)[:length]))]

    def _false_length(self, frame, data, delay_us):
        """A right CRC over a byte count that does not say how long the frame is."""
        reply = framed(UNIT, frame[1], (len(data) + self._rng.choice((-2, -1, 1, 2))) & 0xFF,
                       *data)
        self._recent.append(reply)
        return [(delay_us, reply)]

    def _bad_crc(self, frame, data, delay_us):
        good = self._good(frame, data)
        other = self._rng.randrange(1, 0x10000) ^ int.from_bytes(good[-2:], "big")
        return [(delay_us, framed(UNIT, frame[1], len(data), *self._wrong(len(data) // 2)
                                  [:len(data)])[:-2] + other.to_bytes(2, "big"))]

    def _bit_flips(self, frame, data, delay_us):
        reply = bytearray(self._good(frame, data))
        for bit in self._rng.sample(range(8 * len(reply)), self._rng.choice((1, 2, 3, 4, 8, 24))):
            reply[bit >> 3] ^= 1 << (bit & 7)
        return [(delay_us, reply)]

    def _exception(self, frame, data, delay_us):
        # An answer of "no such register" to the identity would be a meter without a number.
        codes = _EXCEPTIONS if frame[1] == 4 else (1, 3, 4, 5, 6, 11)
        return [(delay_us, framed(UNIT, frame[1] | 0x80, self._rng.choice(codes)))]

    def _other_exception(self, frame, data, delay_us):
        return [(delay_us, framed(2, frame[1] | 0x80, self._rng.choice(_EXCEPTIONS)))]

    def _silence(self, frame, data, delay_us):
        return []

    # -- values that cannot be, in good frames --

    def _spoilt(self, frame, data, delay_us, spoil):
        if frame[1] == 3:  # a name is not a quantity
            return [(delay_us, self._good(frame, data))]
        address = frame[2] << 8 | frame[3]
        here = [(2 * (at - address), name) for at, (name, _) in self._rows.items()
                if address <= at < address + len(data) // 2]
        if here:  # the slow set has none of them
            spoil(data, here)
        return [(delay_us, self._good(frame, data))]

    def _no_number(self, frame, data, delay_us):
        def spoil(data, here):
            at, _ = self._rng.choice(here)
            data[at:at + 4] = self._rng.choice((b"\x7f\xc0\x00\x00", b"\xff\xff\xff\xff",
                                                b"\x7f\x80\x00\x00", b"\xff\x80\x00\x00",
                                                b"\x7f\x80\x00\x01"))
        return self._spoilt(frame, data, delay_us, spoil)

    def _negative(self, frame, data, delay_us):
        def spoil(data, here):
            here = [entry for entry in here if entry[1] in _BOUNDED]
            if not here:
                return self._no_number(frame, data, delay_us)
            at, _ = self._rng.choice(here)
            data[at:at + 4] = float_words(-self._rng.choice((0.5, 3.25, 230, 123456)))
            return None
        return self._spoilt(frame, data, delay_us, spoil)

    def _moved(self, frame, data, delay_us, kwh):
        def spoil(data, here):
            places = [at for at, name in here if name == "import"]
            if places:
                data[places[0]:places[0] + 4] = float_words(kwh)
            else:
                data[here[0][0]:here[0][0] + 4] = b"\x7f\xc0\x00\x00"
        return self._spoilt(frame, data, delay_us, spoil)

    def _step_back(self, frame, data, delay_us):
        kwh = (self._believed_mwh() or 0) / 10**6
        below = kwh * self._rng.choice((0, 0.001, 0.5, 0.99, 0.999999, 1 - 2e-7))
        return self._moved(frame, data, delay_us, max(0.0, below))

    def _jump(self, frame, data, delay_us):
        kwh = (self._believed_mwh() or 0) / 10**6
        return self._moved(frame, data, delay_us,
                           kwh * self._rng.choice((1, 1.001, 2, 1000)) + 10 + kwh / 10**6
                           + self._rng.random() * 100)

    def _words_swapped(self, frame, data, delay_us):
        def spoil(data, here):
            for at, _ in here:
                data[at:at + 4] = data[at + 2:at + 4] + data[at:at + 2]
        return self._spoilt(frame, data, delay_us, spoil)

    def _all_zero(self, frame, data, delay_us):
        def spoil(data, here):
            data[:] = bytes(len(data))
        return self._spoilt(frame, data, delay_us, spoil)

    def _zero_reply(self, frame, data, delay_us):
        """All registers of one reply are zero, the others are right."""
        return self._all_zero(frame, data, delay_us)


KINDS = (
    "noise before", "noise after", "noise inside", "noise only", "truncated", "byte lost", "late",
    "unasked", "doubled", "echo", "echo only", "other unit", "other function", "other length",
    "false length", "bad crc", "bit flips", "exception", "other exception", "silence",
    "no number", "negative", "step back", "jump", "words swapped", "all zero",
    "zero reply",
)
