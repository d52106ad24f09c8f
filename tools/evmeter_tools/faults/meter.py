"""A meter and a line that misbehave on purpose, and know what was true.

Every reply that the meter forms is kept with the values in it, so that a reading that was believed
can be held against what the meter had to say, and when.
"""

import random
import struct
from collections import Counter, deque

from evmeter_tools.faults.rows import identity, rows

UNIT = 1
SERIAL = 21034567
P_MAX_W = 11000
_KEPT = 64
# what cannot be negative, for the gate to see it; an export register where it has a sign
_BOUNDED = ("voltage_l1", "frequency", "import", "export")
_ODD = 5000  # replies until values come again
_CYCLES = ("words swapped", "all zero")
_CHANGES = ("register reset", "meter exchanged")
_ALONE = ("unasked", "two at once", *_CHANGES)  # one request
_REBASE_POLLS = 16  # without faults: what 5 replies over 10 s need
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


class BadMeter:
    """Answers requests with faults. `believed_mwh()` gives the register that the gate stands at.

    changed     the last true change of the register that must be re-based: (kind, time in us),
                or None; `pending` until the reader clears it
    """

    def __init__(self, profile, time, register_wh, seed, believed_mwh):
        self._rng = random.Random(seed)
        self._time = time
        self._believed_mwh = believed_mwh
        self._profile = profile
        self._latency_ms = profile["latency_ms"]
        self._rows = rows(profile)
        self._energy = next(row for row in self._rows if row.name == "import")
        self._function = profile["function"]
        self._identity = identity(profile, SERIAL)
        self._identity_function = profile.get("identity_function", 3)
        self._serial = SERIAL
        self._rolls_mwh = profile.get("rollover_mwh", 0)
        self._energy_mw_ms = register_wh * 3600 * 10**6
        if self._rolls_mwh:
            self._energy_mw_ms = (self._rolls_mwh - 150000) * 3600 * 1000
        self._load_w = 0
        self._at_ms = 0
        self._count = 0
        self._kind = ""
        self._left = 0
        self._clean = 20
        self._cut = self._rng.randrange(256)
        self._recent = deque(maxlen=_KEPT)  # frames with a right CRC that were sent
        self.requests_each_cycle = 0
        self.first_address = self.last_address = None
        self.served = {}  # address -> (time in us, {quantity: value}) of the replies formed
        self.uart = None
        self.unasked_until_us = 0
        self.edge = False
        self.off = False
        self.changed = None
        self.pending = False
        self.cuts = set()  # (length of a reply, to how many bytes it was cut)
        self.injected = Counter()

    # -- what is true --

    def _register_mwh(self):
        now_ms = self._time.now_us // 1000
        self._energy_mw_ms += self._load_w * 1000 * (now_ms - self._at_ms) if self._at_ms else 0
        self._at_ms = now_ms
        mwh = self._energy_mw_ms // (3600 * 10**3)
        if self._rolls_mwh and mwh >= self._rolls_mwh:
            self._energy_mw_ms -= self._rolls_mwh * 3600 * 10**3
            self._change("rollover")
            mwh -= self._rolls_mwh
        return mwh // 1000 * 1000

    def _change(self, kind):
        """The register goes on from elsewhere: what the gate must find out by itself."""
        self.injected[kind] += 1
        self.changed = ("several" if self.pending else kind, self._time.now_us)
        self.pending = True
        self._left = 0
        self._clean = _REBASE_POLLS * self.requests_each_cycle

    def _values(self):
        self._count += 1
        mwh = self._register_mwh()
        if self._count % 40 == 0:
            self._load_w = self._rng.choice((0, 0, 1380, 3680, 7360, P_MAX_W * 95 // 100))
        # no two replies are alike, so that each can be told from all others
        odd = self._count % _ODD
        values = {"power": self._load_w * 1000, "import": mwh, "export": 0, "frequency": 46000}
        for row in self._rows:
            step = row.step()
            if row.name[:7] == "voltage":
                values[row.name] = 226000 + odd * step
            elif row.name[:7] == "current":
                values[row.name] = 1000 + odd * step
            elif row.name == "power":
                values["power"] += odd * max(step, 125)
            elif row.name == "frequency":
                values["frequency"] += odd * step % 40000
        return values

    def _here(self, address, count):
        """The rows in a request, each with the offset of its bytes."""
        return [(2 * (row.at - address), row) for row in self._rows
                if address <= row.at and row.at + row.words <= address + count]

    def _is_identity(self, function, address):
        return function == self._identity_function and address in self._identity

    def _data(self, function, address, count, served):
        """The register bytes of a true reply."""
        data = bytearray(2 * count)
        if self._is_identity(function, address):
            for at, words in self._identity.items():
                if address <= at < address + count:
                    data[2 * (at - address):2 * (at - address) + len(words)] = words
            return data
        values = self._values()
        told = {}
        for at, row in self._here(address, count):
            words = row.encode(values[row.name])
            data[at:at + len(words)] = words
            told[row.name] = row.meaning(words)
            if row.scale_at is not None:
                struct.pack_into(">h", data, 2 * (row.scale_at - address), row.scale)
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
            replies = self._answer(kind, frame, data, delay_us)
        else:
            replies = [(delay_us, self._good(frame, data))]
        for pause_us, reply in replies:
            self.uart.deliver(end_us + pause_us, reply)

    def _answer(self, kind, frame, data, delay_us):
        """What comes over the line, with that fault: [(time in us after the request, bytes)]."""
        return getattr(self, "_" + kind.replace(" ", "_"))(frame, data, delay_us)

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
        if kind in _CHANGES:
            self._kind = ""
            if not self.edge:
                getattr(self, "_" + kind.replace(" ", "_"))()
            return ""
        if kind == "unasked" and (
                self.edge or address != self.last_address
                or self._time.now_us - self.served[self.first_address][-1][0] > _IDLE_AFTER_US):
            return ""  # outside of the silence between two polls nothing could tell it apart
        self._kind = kind
        each = self.requests_each_cycle
        self._left = 1 if kind in _CYCLES else self._rng.choice((0, 0, 0, 1, 2, 3))
        if kind in _ALONE:
            self._left = 0
        elif kind == "slow":
            self._left = self._rng.randrange(2, 6)
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
        for at, row in self._here(address, len(data) // 2):
            scale = None
            if row.scale_at is not None:
                scale = struct.unpack_from(">h", data, 2 * (row.scale_at - address))[0]
            found[row.name] = row.meaning(data[at:at + 2 * row.words], scale)
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
        self._cut = self._cut % (len(good) - 1) + 1  # each length in its turn
        self.cuts.add((len(good), self._cut))
        return [(delay_us, good[:self._cut])]

    def _byte_lost(self, frame, data, delay_us):
        good = self._good(frame, data)
        at = self._rng.randrange(len(good))
        return [(delay_us, good[:at] + good[at + 1:])]

    def _late(self, frame, data, delay_us):
        late_us = self._rng.randrange(self._latency_ms * 1000, 2 * self._latency_ms * 1000 - 20000)
        return [(late_us, self._good(frame, data))]

    def _slow(self, frame, data, delay_us):
        """All tries for several requests come late."""
        return self._late(frame, data, delay_us)

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
        if self._energy.kind == "f32":
            return b"".join(struct.pack(">f", self._rng.uniform(0.5, 400))
                            for _ in range(count // 2 + 1))
        return b"".join(bytes((0, 0, self._rng.randrange(16), self._rng.randrange(256)))
                        for _ in range(count // 2 + 1))

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
        address = frame[2] << 8 | frame[3]
        codes = (1, 3, 4, 5, 6, 11) if self._is_identity(frame[1], address) else _EXCEPTIONS
        return [(delay_us, framed(UNIT, frame[1] | 0x80, self._rng.choice(codes)))]

    def _other_exception(self, frame, data, delay_us):
        return [(delay_us, framed(2, frame[1] | 0x80, self._rng.choice(_EXCEPTIONS)))]

    def _silence(self, frame, data, delay_us):
        return []

    # -- values that cannot be, in good frames --

    def _spoilt(self, frame, data, delay_us, spoil):
        address = frame[2] << 8 | frame[3]
        here = self._here(address, len(data) // 2)
        # a name is not a quantity, and the slow set has none of them
        if here and not self._is_identity(frame[1], address):
            spoil(data, here)
        return [(delay_us, self._good(frame, data))]

    @staticmethod
    def _put(data, at, words):
        data[at:at + len(words)] = words

    def _no_number(self, frame, data, delay_us):
        def spoil(data, here):
            at, row = self._rng.choice(here)
            words = row.no_number(self._rng)
            if words is None:
                return
            self._put(data, at, words)
            if row.kind[0] not in "ft" and row.name != "import":
                # "not available" is an answer too: that quantity is then none
                told = self.served[frame[2] << 8 | frame[3]][-1][1]
                told[row.name] = None
        return self._spoilt(frame, data, delay_us, spoil)

    def _negative(self, frame, data, delay_us):
        def spoil(data, here):
            here = [entry for entry in here if entry[1].name in _BOUNDED and entry[1].signed]
            if not here:
                return self._no_number(frame, data, delay_us)
            at, row = self._rng.choice(here)
            self._put(data, at, row.encode(-self._rng.choice((500, 3250, 230000, 123456000))
                                           * max(1, row.step() // 100)))
            return None
        return self._spoilt(frame, data, delay_us, spoil)

    def _moved(self, frame, data, delay_us, mwh):
        def spoil(data, here):
            places = [at for at, row in here if row.name == "import"]
            if places:
                self._put(data, places[0], self._energy.encode(int(mwh)))
            else:
                words = here[0][1].no_number(self._rng)
                if words:
                    self._no_number(frame, data, delay_us)
        return self._spoilt(frame, data, delay_us, spoil)

    def _step_back(self, frame, data, delay_us):
        mwh = self._believed_mwh() or 0
        step = max(self._energy.step(), 1000)
        below = self._rng.choice((0, mwh // 1000, mwh // 2, mwh * 99 // 100, mwh - mwh // 10**6,
                                  mwh - mwh // (5 * 10**6))) - step
        if below < 0:  # there is nothing that far below
            return self._silence(frame, data, delay_us)
        return self._moved(frame, data, delay_us, below)

    def _jump(self, frame, data, delay_us):
        mwh = self._believed_mwh() or 0
        far = 10 * max(self._profile["step_mwh"], 10**6)
        above = (mwh * self._rng.choice((1000, 1001, 2000)) // 1000 + far + mwh // 10**6
                 + self._rng.randrange(100 * 10**6))
        return self._moved(frame, data, delay_us, above)

    def _words_swapped(self, frame, data, delay_us):
        def spoil(data, here):
            for at, row in here:
                words = data[at:at + 2 * row.words]
                if row.words > 1:
                    self._put(data, at, b"".join(words[place:place + 2] for place in
                                                 range(len(words) - 2, -1, -2)))
        return self._spoilt(frame, data, delay_us, spoil)

    def _all_zero(self, frame, data, delay_us):
        def spoil(data, here):
            data[:] = bytes(len(data))
        return self._spoilt(frame, data, delay_us, spoil)

    def _zero_reply(self, frame, data, delay_us):
        """All registers of one reply are zero, the others are right."""
        return self._all_zero(frame, data, delay_us)

    # -- two faults, and what is true though it looks like one --

    def _two_at_once(self, frame, data, delay_us):
        """A reply that cannot be, or none that is whole, over a line that does its part."""
        replies = self._answer(self._rng.choice(_FIRST), frame, data, delay_us)
        second = self._rng.choice(("echo", "noise", "cut", "flip", "doubled", "late"))
        self.injected["two at once, and " + second] += 1
        if second == "echo":
            return [(-8 * self.uart.char_us, frame), *replies]
        if second == "noise":
            return [(pause_us, self._bytes(0, 9) + bytes(reply) + self._bytes(1, 9))
                    for pause_us, reply in replies]
        if second == "cut":
            return [(pause_us, reply[:-self._rng.randrange(1, 4)]) for pause_us, reply in replies]
        if second == "flip":
            return [(pause_us, bytes((reply[0] ^ 1 << self._rng.randrange(8), *reply[1:])))
                    for pause_us, reply in replies]
        if second == "doubled":
            return [(pause_us, 2 * bytes(reply)) for pause_us, reply in replies]
        more_us = self._latency_ms * 1000
        return [(pause_us + (more_us if pause_us < more_us - 20000 else 0), reply)
                for pause_us, reply in replies]

    def _move_register(self, mwh):
        if self._rolls_mwh:  # so that it soon rolls over
            mwh = self._rolls_mwh - self._rng.randrange(20000, 120000)
        self._energy_mw_ms = mwh * 3600 * 10**3

    def _register_reset(self):
        self._move_register(self._rng.choice((0, self._rng.randrange(5 * 10**6))))
        self._change("register reset")

    def _meter_exchanged(self):
        self._serial += 1
        self._identity = identity(self._profile, self._serial)
        self._move_register(self._rng.choice((3 * 10**6, self._register_mwh() + 10**10)))
        self._change("meter exchanged")


KINDS = (
    "noise before", "noise after", "noise inside", "noise only", "truncated", "byte lost", "late",
    "unasked", "doubled", "echo", "echo only", "other unit", "other function", "other length",
    "false length", "bad crc", "bit flips", "exception", "other exception", "silence",
    "no number", "negative", "step back", "jump", "words swapped", "all zero",
    "zero reply", "slow", "two at once", *_CHANGES,
)
_FIRST = ("truncated", "byte lost", "bit flips", "bad crc", "noise only", "other unit", "late",
          "other function", "other length", "false length", "exception", "other exception",
          "no number", "negative", "step back", "jump")
