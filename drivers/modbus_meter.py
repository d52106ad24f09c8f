"""An energy meter on Modbus, described by a profile.

A profile is a JSON file in the folder `meter_profiles` beside this module, named after the meter.
Unknown fields are errors. Those marked * may be left out:

make, model      as written into records, printable ASCII
confidence       "high", "medium" or "low": how well the register map is established
line, unit       as delivered ("2400 8N1", 1), for the installer: the configuration counts
phases           1 or 3
function         3 or 4: how the billing set is read; identity_function* likewise (3)
order            "big" or "little": order of the 16-bit words of a longer value
max_registers    the most the meter gives in one request, 4 to 125
gap_ms*          silence the meter asks for before a request (0)
latency_ms*      how late its reply may begin (300)
step_mwh         the step of its import register
rollover_mwh*    where the import register starts again at 0 (0: not known)
missing*         type -> the code that means "not available", as an integer
billing          quantity -> [address, type, unit, exponent*]: the register times 10**exponent is
                 the quantity in that unit; `import` is required
identity*        serial, code, firmware -> [address, type]; str8 is a text of 8 registers

Addresses are those on the wire, from 0, as hexadecimal text.
"""

import json
import os

from micropython import const

from drivers.modbus_rtu import ModbusError
from evmeter.metering.registers import WORDS, decode

_REQUEST_CHARS = const(13)  # what one more request costs: 8 of the request, 5 around the data
_TYPICAL_LATENCY_US = const(40000)  # Carlo Gavazzi's text; Eastron's meters were seen at 42 ms
_TEXT_WORDS = {"str8": 8, "str16": 16}
_TEXT_MOST = const(40)

# quantity -> (attribute of Reading, allowed units); _l1 to _l3 go to the entry of that phase
_QUANTITIES = {
    "voltage": ("voltages_mv", ("V",)),
    "current": ("currents_ma", ("A",)),
    "power": ("power_mw", ("W", "kW")),
    "frequency": ("frequency_mhz", ("Hz",)),
    "import": ("import_mwh", ("Wh", "kWh")),
    "export": ("export_mwh", ("Wh", "kWh")),
}
_DEFAULTS = {"identity_function": 3, "gap_ms": 0, "latency_ms": 300, "rollover_mwh": 0,
             "missing": {}, "identity": {}}
# field -> allowed values (tuple), lowest and highest (list), or a value of the allowed type
_RULES = {
    "make": "", "model": "", "line": "",
    "confidence": ("high", "low", "medium"),
    "order": ("big", "little"),
    "phases": (1, 3),
    "function": (3, 4),
    "identity_function": (3, 4),
    "unit": [1, 247],
    "max_registers": [4, 125],
    "gap_ms": [0, 1000],
    "latency_ms": [20, 5000],
    "step_mwh": [1, 1000000],
    "rollover_mwh": [0, 10**15],
    "missing": {}, "billing": {}, "identity": {},
}


class ProfileError(ValueError):
    """A meter profile cannot be taken; the text names the field and the allowed values."""


def _names(allowed):
    return ", ".join([str(one) for one in allowed])


def _check(field, value, rule):
    if isinstance(rule, tuple):
        allowed = _names(rule)
        ok = type(value) in (int, str) and value in rule
    elif isinstance(rule, list):
        allowed = "a whole number from %d to %d" % (rule[0], rule[1])
        ok = type(value) is int and rule[0] <= value <= rule[1]
    elif isinstance(rule, dict):
        allowed = "a JSON object"
        ok = isinstance(value, dict)
    else:
        allowed = "1 to %d characters of printable ASCII" % _TEXT_MOST
        ok = (isinstance(value, str) and 0 < len(value) <= _TEXT_MOST
              and all(" " <= one <= "~" for one in value))
    if not ok:
        raise ProfileError("%s is %r; allowed: %s" % (field, value, allowed))


def _row(field, row, kinds, units):
    """(address, type, unit, exponent) of a row."""
    try:
        text, kind, unit, exponent = row + ["", 0][len(row) - 2:]
        address = int(text, 16)
        ok = (0 <= address <= 0xFFFF and kind in kinds and unit in units
              and type(exponent) is int and -6 <= exponent <= 3)
    except (TypeError, ValueError):
        ok = False
    if not ok:
        allowed = "hexadecimal address, type of %s" % _names(kinds)
        if units[0]:
            allowed += ", unit of %s, exponent from -6 to 3" % _names(units)
        raise ProfileError("%s is %r; allowed: [%s]" % (field, row, allowed))
    return address, kind, unit, exponent


def check_profile(given):
    """The profile with its defaults filled in, `billing` and `identity` turned into lists of
    (address, words, attribute or name, phase or -1, type, exponent).

    Raises ProfileError with one line that names the field and the allowed values.
    """
    _check("the profile", given, {})
    for field in given:
        _check("a field", field, tuple(sorted(_RULES)))
    profile = {}
    for field, rule in _RULES.items():
        profile[field] = given.get(field, _DEFAULTS.get(field))
        _check(field, profile[field], rule)
    kinds = tuple(sorted(WORDS))
    for kind in profile["missing"]:
        _check("missing", kind, kinds)
        _check("missing." + kind, profile["missing"][kind], [-1 << 63, (1 << 64) - 1])
    if "import" not in profile["billing"]:
        raise ProfileError("billing.import is missing; it is required")
    names = []
    for name in _QUANTITIES:
        phases = profile["phases"] if name in ("voltage", "current") else 0
        names += ["%s_l%d" % (name, phase + 1) for phase in range(phases)] or [name]
    names = tuple(sorted(names))
    rows = []
    for name in profile["billing"]:
        _check("a quantity", name, names)
        phase = -1
        quantity = name
        if name[-3:-1] == "_l":
            phase = int(name[-1]) - 1
            quantity = name[:-3]
        attribute, units = _QUANTITIES[quantity]
        address, kind, unit, exponent = _row("billing." + name, profile["billing"][name], kinds,
                                             units)
        exponent += 6 if unit[0] == "k" else 3
        rows.append((address, WORDS[kind], attribute, phase, kind, exponent))
    profile["billing"] = rows
    rows = []
    for name in profile["identity"]:
        _check("an identity", name, ("code", "firmware", "serial"))
        address, kind, _, _ = _row("identity." + name, profile["identity"][name],
                                   ("str16", "str8", "u16", "u32", "u64"), ("",))
        rows.append((address, _TEXT_WORDS.get(kind) or WORDS[kind], name, -1, kind, 0))
    profile["identity"] = rows
    return profile


def parse_profile(text):
    """The profile in `text` (JSON), checked. Raises ValueError, ProfileError."""
    # MicroPython's json takes an object that is cut short.
    if text.count("{") != text.count("}") or text.count("[") != text.count("]"):
        raise ValueError("a bracket is missing")
    return check_profile(json.loads(text))


def load_profile(name):
    """The profile `name`, checked. Raises ProfileError; for an unknown name it lists the known."""
    folder = __file__[:-len(__file__.split("/")[-1])] + "meter_profiles/"
    try:
        known = sorted([one[:-5] for one in os.listdir(folder) if one[-5:] == ".json"])
        if name not in known:
            raise ValueError("not known; there is: " + _names(known))
        with open(folder + name + ".json") as file:
            return parse_profile(file.read())
    except (OSError, ValueError) as error:
        raise ProfileError("meter profile %s: %s" % (name, error)) from None


def plan(rows, max_registers, request_us, char_us):
    """Requests that read `rows` (address, words, ...) in the least time on the wire, where a
    request costs `request_us` and a register, wanted or not, two characters.

    Returns [(address, count, rows)].
    """
    rows = sorted(rows)
    best = [(0, 0)]  # for the first n rows: (cost, where the last request begins)
    for end in range(1, len(rows) + 1):
        least = None
        for begin in range(end - 1, -1, -1):
            count = rows[end - 1][0] + rows[end - 1][1] - rows[begin][0]
            if count > max_registers:
                break
            cost = best[begin][0] + request_us + 2 * count * char_us
            if least is None or cost <= least[0]:
                least = (cost, begin)
        best.append(least)
    requests = []
    end = len(rows)
    while end:
        begin = best[end][1]
        address = rows[begin][0]
        requests.append((address, rows[end - 1][0] + rows[end - 1][1] - address, rows[begin:end]))
        end = begin
    requests.reverse()
    return requests


class ModbusMeter:
    """The meter with number `unit` on `bus` (a ModbusRtu), as the profile says.

    `profile` is a profile's name, or its dict. `serial` is the number on the label; it counts
    where the meter has no register for it. Attributes: make, model, phases, step_mwh,
    rollover_mwh (0: not known), confidence, label_serial. Raises ProfileError.
    """

    def __init__(self, bus, profile, unit, serial=None):
        if isinstance(profile, str):
            profile = load_profile(profile)
        else:
            profile = check_profile(profile)
        self.bus = bus
        self._unit = unit
        self._function = profile["function"]
        self._identity_function = profile["identity_function"]
        self._latency_ms = profile["latency_ms"]
        self._little = profile["order"] == "little"
        self._missing = profile["missing"]
        self.make = profile["make"]
        self.model = profile["model"]
        self.confidence = profile["confidence"]
        self.phases = profile["phases"]
        self.step_mwh = profile["step_mwh"]
        self.rollover_mwh = profile["rollover_mwh"]
        self.label_serial = serial
        bus.gap_ms = max(bus.gap_ms, profile["gap_ms"])
        most = profile["max_registers"]
        char_us = bus.char_us
        cost_us = _REQUEST_CHARS * char_us + _TYPICAL_LATENCY_US + profile["gap_ms"] * 1000
        # Nothing in between is read: a register that is not there would hide the others.
        self._identity = plan(profile["identity"], most, 1, char_us)
        # The request with the import register goes last: the reading is dated by its reply.
        self._requests = []
        for request in plan(profile["billing"], most, cost_us, char_us):
            if any(row[2] == "import_mwh" for row in request[2]):
                energy = request
            else:
                self._requests.append(request)
        self._requests.append(energy)

    async def read_billing(self, reading, energy_only=False):
        """Fill `reading` in place, from the import register's request alone if `energy_only`.

        A float32 that is no number, or an import register that is not available, leaves quality F
        and the reason. The caller dates the reading. Raises ModbusError.
        """
        reading.quality = "G"
        reading.reason = ""
        index = len(self._requests) - 1 if energy_only else 0
        while index < len(self._requests):
            request = self._requests[index]
            self._fill(reading, request, await self.bus.read(
                self._unit, self._function, request[0], request[1], self._latency_ms))
            index += 1

    def _fill(self, reading, request, data):
        for at, _, attribute, phase, kind, exponent in request[2]:
            value = decode(data, 2 * (at - request[0]), kind, exponent, self._little,
                           self._missing.get(kind))
            if value is None and (kind == "f32" or attribute == "import_mwh"):
                reading.quality = "F"
                reading.reason = attribute + " is no number"
            if phase < 0:
                setattr(reading, attribute, value)
            else:
                getattr(reading, attribute)[phase] = value

    async def read_identity(self):
        """(serial number, meter code, firmware) as text; None where the meter has none.

        Whole numbers are printed decimal, 16-bit ones as four hexadecimal digits. Raises
        ModbusError; a register that the meter says it does not have (exception 2) is None.
        """
        found = {}
        for address, count, rows in self._identity:
            try:
                data = await self.bus.read(self._unit, self._identity_function, address, count,
                                           self._latency_ms)
            except ModbusError as error:
                if error.code == 2:
                    continue
                raise
            for at, words, name, _, kind, _ in rows:
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
