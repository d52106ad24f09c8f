"""An energy meter on Modbus, described by a profile (drivers/meter_profile.py)."""

from micropython import const

from drivers.modbus_rtu import ModbusError
from evmeter.metering.registers import WORDS, decode
from evmeter.system.forget import forget

_REQUEST_CHARS = const(13)  # what one more request costs: 8 of the request, 5 around the data
_TYPICAL_LATENCY_US = const(40000)  # Carlo Gavazzi's text; Eastron's meters were seen at 42 ms
_MOST_SCALE = const(10)  # SunSpec: a scale factor is from -10 to 10
_REFUSED = (2, 3)  # exceptions: no such register, too many of them
_SLOW = const(-2)


class ProfileError(ValueError):
    """A meter profile cannot be taken; the text names the field and the allowed values."""


def plan(rows, max_registers, request_us, char_us):
    """Requests that read `rows` (address, words, ...) in the least time on the wire, where a
    request costs `request_us` and a register, wanted or not, two characters.

    Returns [(address, count, rows)].
    """
    rows = sorted(rows)
    best = [(0, 0, 0)]  # for the first n rows: cost; the last request's first row, registers
    for end in range(1, len(rows) + 1):
        least = None
        stop = 0
        for begin in range(end - 1, -1, -1):
            stop = max(stop, rows[begin][0] + rows[begin][1])
            count = stop - rows[begin][0]
            if count > max_registers:
                break
            cost = best[begin][0] + request_us + 2 * count * char_us
            if least is None or cost <= least[0]:
                least = (cost, begin, count)
        best.append(least)
    requests = []
    end = len(rows)
    while end:
        _, begin, count = best[end]
        requests.append((rows[begin][0], count, rows[begin:end]))
        end = begin
    requests.reverse()
    return requests


def _import_last(requests):
    """The request with the import register goes last: the reading is dated by its reply."""
    for request in requests:
        if any(row[2] == "import_mwh" for row in request[2]):
            requests.remove(request)
            requests.append(request)
            break
    return requests


class ModbusMeter:
    """The meter with number `unit` on `bus` (a ModbusRtu), as the profile says.

    `profile` is a profile's name, or its dict. `serial` is the number on the label; it counts
    where the meter has no register for it. `total_is_import`: nothing is ever exported here, so
    that a meter with no import register bills from its total. Attributes: make, model, phases,
    step_mwh, rollover_mwh (0: not known), signed, confidence, note, label_serial. Raises
    ProfileError.
    """

    def __init__(self, bus, profile, unit, serial=None, total_is_import=False):
        # Needed at the start alone: its memory is given back.
        from drivers import meter_profile

        profile = meter_profile.take(profile, total_is_import)
        forget("drivers", "meter_profile")
        self.bus = bus
        self._unit = unit
        self._function = profile["function"]
        self._identity_function = profile["identity_function"]
        self._latency_ms = profile["latency_ms"]
        self._little = profile["order"] == "little"
        self._missing = profile["missing"]
        self._most = most = profile["max_registers"]
        self.make = profile["make"]
        self.model = profile["model"]
        self.confidence = profile["confidence"]
        self.note = profile["note"]
        self.phases = profile["phases"]
        self.step_mwh = profile["step_mwh"]
        self.rollover_mwh = profile["rollover_mwh"]
        self.signed = profile["signed"]
        self.label_serial = serial
        bus.gap_ms = max(bus.gap_ms, profile["gap_ms"])
        char_us = bus.char_us
        cost_us = _REQUEST_CHARS * char_us + _TYPICAL_LATENCY_US + profile["gap_ms"] * 1000
        self._requests = _import_last(plan(profile["billing"], most, cost_us, char_us))
        self._slow = plan(profile["slow"], most, cost_us, char_us)
        self._unsure = [self._requests, self._slow]  # not yet answered as a whole
        self._reading = None
        self._take = self._fill  # bound once: each binding would cost the heap
        # Nothing in between is read: a register that is not there would hide the others.
        self._identity = plan(profile["identity"], most, 1, char_us)

    def read_billing(self, reading, energy_only=False):
        """To be awaited: fill `reading` in place, from the import register's request alone if
        `energy_only`.

        A value that is no number, or an import register that is not available, leaves quality F
        and the reason. The caller dates the reading. Raises ModbusError; but until all has been
        answered once, a request that the meter refuses with exception 2 or 3 is taken apart, and
        what it does not have is None from then on.
        """
        reading.quality = "G"
        reading.reason = ""
        return self._read(reading, self._requests, energy_only)

    def read_slow(self, reading):
        """To be awaited: fill pf_milli, apparent_mva and reactive_mvar of `reading`; what the
        meter does not have or gives as no number is None. Raises ModbusError."""
        reading.pf_milli = reading.apparent_mva = reading.reactive_mvar = None
        return self._read(reading, self._slow, False)

    def _read(self, reading, requests, last_only):
        self._reading = reading
        if requests in self._unsure:
            return self._explore(requests, last_only)
        return self._each(requests, last_only)

    def _each(self, requests, last_only):
        return self.bus.read_each(self._unit, self._function, requests,
                                  len(requests) - 1 if last_only else 0, self._take,
                                  self._latency_ms)

    async def _explore(self, requests, last_only):
        while True:
            try:
                await self._each(requests, last_only)
                break
            except ModbusError as error:
                if error.code not in _REFUSED:
                    raise
                self._narrow(requests, self.bus.asked, error)
        if not last_only:
            self._unsure.remove(requests)

    def _narrow(self, requests, request, error):
        """Ask for the same without the unused registers, then for each register alone; one that
        is refused alone is given up, if it is not the import register."""
        rows = request[2]
        parts = []
        if len(rows) > 1:
            parts = plan(rows, self._most, 1, 1)
            if len(parts) == 1:
                parts = [(row[0], row[1], [row]) for row in rows]
        elif rows[0][2] == "import_mwh":
            raise error
        requests.remove(request)
        requests.extend(parts)
        _import_last(requests)

    def _fill(self, request, data):
        reading = self._reading
        first = request[0]
        for _, _, attribute, phase, kind, exponent, at, scale_at in request[2]:
            value = None
            scale = 0
            if scale_at is not None:
                scale = decode(data, 2 * (scale_at - first), "i16", 0, False,
                               self._missing.get("i16"))
            if scale is not None and -_MOST_SCALE <= scale <= _MOST_SCALE:
                value = decode(data, 2 * (at - first), kind, exponent + scale, self._little,
                               self._missing.get(kind))
            if value is None and phase != _SLOW and (
                    kind in ("f32", "t5", "t6") or attribute == "import_mwh"):
                reading.quality = "F"
                reading.reason = attribute + " is no number"
            if phase < 0:
                setattr(reading, attribute, value)
            else:
                getattr(reading, attribute)[phase] = value

    async def read_identity(self):
        """(serial number, meter code, firmware) as text; None where the meter has none.

        Whole numbers are printed decimal, 16-bit ones as four hexadecimal digits. Raises
        ModbusError; a register that the meter says it does not have is None.
        """
        found = {}
        for address, count, rows in self._identity:
            try:
                data = await self.bus.read(self._unit, self._identity_function, address, count,
                                           self._latency_ms)
            except ModbusError as error:
                if error.code == _REFUSED[0]:
                    continue
                raise
            for at, words, name, _, kind, _, _, _ in rows:
                at = 2 * (at - address)
                if kind in WORDS:
                    value = decode(data, at, kind, 0, self._little, self._missing.get(kind))
                    if value is not None:
                        value = ("%04X" if words == 1 else "%d") % value
                else:
                    value = "".join([chr(one) for one in data[at:at + 2 * words]
                                     if 32 <= one <= 126]).strip()
                found[name] = value
        return found.get("serial"), found.get("code"), found.get("firmware")
