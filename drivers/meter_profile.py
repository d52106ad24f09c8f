"""Meter profiles: what is in one, whether it can be taken, and where the known ones lie.

A profile is a JSON file in the folder `meter_profiles` beside this module, named after the meter,
or an object in the configuration. Unknown fields are errors. Those marked * may be left out:

make, model      as written into records, printable ASCII
confidence       "high", "medium" or "low": how well the register map is established
note*            what is not certain, or special about this meter; for the installer
line, unit       as delivered ("2400 8N1", 1), for the installer: the configuration counts
phases           1 or 3
function         3 or 4: how the quantities are read; identity_function* likewise (3)
order            "big" or "little": order of the 16-bit words of a longer value
max_registers    the most the meter gives in one request, 4 to 125
gap_ms*          silence the meter asks for before a request (0)
latency_ms*      how late its reply may begin (300)
step_mwh         the step of its import register; where it is not known, one that is too large
rollover_mwh*    where the import register starts again at 0 (0: not known)
signed*          "bsm": the meter signs records of its own (drivers/signing_meter.py), else ""
missing*         type -> the code that means "not available", as an integer
billing          quantity -> [address, type, unit, exponent*, scale factor*]: the register times
                 10**exponent is the quantity in that unit. A scale factor is the address of a
                 register whose i16 is added to the exponent (SunSpec). `import` is required; or
                 else `total`, of import and export, for where nothing can be exported
slow*            likewise, for the quantities that change little: pf, apparent, reactive
identity*        serial, code, firmware -> [address, type]; str8 is a text of 8 registers

Addresses are those on the wire, from 0, as hexadecimal text.
"""

import json
import os

from drivers.modbus_meter import ProfileError
from evmeter.metering.registers import WORDS

# quantity -> (attribute of Reading, allowed units); _l1 to _l3 go to the entry of that phase
_ENERGY = ("Wh", "kWh")
_BILLING = {
    "voltage": ("voltages_mv", ("V",)),
    "current": ("currents_ma", ("A",)),
    "power": ("power_mw", ("W", "kW")),
    "frequency": ("frequency_mhz", ("Hz",)),
    "import": ("import_mwh", _ENERGY),
    "total": ("import_mwh", _ENERGY),
    "export": ("export_mwh", _ENERGY),
}
_SLOW = {
    "pf": ("pf_milli", ("", "%")),
    "apparent": ("apparent_mva", ("VA", "kVA")),
    "reactive": ("reactive_mvar", ("var", "kvar")),
}
_TEXTS = {"str2": 2, "str8": 8, "str16": 16}
_NAMES = {"serial": (None, ("",)), "code": (None, ("",)), "firmware": (None, ("",))}
_OBJECT = {}
_DEFAULTS = {"note": "", "identity_function": 3, "gap_ms": 0, "latency_ms": 300,
             "rollover_mwh": 0, "signed": "", "missing": {}, "slow": {}, "identity": {}}
# field -> allowed values (tuple), lowest and highest (list), most characters, or a JSON object
_RULES = {
    "make": 40, "model": 40, "line": 40, "note": 240,
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
    "signed": ("", "bsm"),
    "missing": _OBJECT, "billing": _OBJECT, "slow": _OBJECT, "identity": _OBJECT,
}


def _check(field, value, rule):
    if isinstance(rule, tuple):
        allowed = ", ".join([str(one) for one in rule])
        ok = type(value) in (int, str) and value in rule
    elif isinstance(rule, list):
        allowed = "a whole number from %d to %d" % (rule[0], rule[1])
        ok = type(value) is int and rule[0] <= value <= rule[1]
    elif isinstance(rule, dict):
        allowed = "a JSON object"
        ok = isinstance(value, dict)
    else:
        allowed = "1 to %d characters of printable ASCII" % rule
        ok = (isinstance(value, str) and 0 < len(value) <= rule
              and all(" " <= one <= "~" for one in value))
    if not ok:
        raise ProfileError("%s is %r; allowed: %s" % (field, value, allowed))


def _row(field, row, kinds, units, most):
    """(first address, registers, type, exponent, address, scale factor's address or None)."""
    at = -1
    try:
        text, kind, unit, exponent, scale = row + ["", 0, None][len(row) - 2:]
        at = first = int(text, 16)
        end = first + kinds[kind]
        if scale is not None:
            scale = int(scale, 16)
            first = min(at, scale)
            end = max(end, scale + 1)
        if unit not in units or type(exponent) is not int or not -6 <= exponent <= 3:
            at = -1
    except (KeyError, TypeError, ValueError):
        at = -1
    if at < 0 or first < 0 or end > 0x10000 or end - first > most:
        allowed = "hexadecimal address, type of %s" % ", ".join(sorted(kinds))
        if units[0] or len(units) > 1:
            allowed += ("; unit of %s; exponent from -6 to 3, address of a scale factor"
                        % ", ".join(units))
        raise ProfileError("%s is %r; allowed: [%s], at most %d registers"
                           % (field, row, allowed, most))
    exponent += 6 if unit[:1] == "k" else 1 if unit == "%" else 3
    return first, end - first, kind, exponent, at, scale


def _rows(profile, section, quantities, kinds):
    """The section as rows: (first address, registers, attribute, phase or -1, or -2 for the slow
    set, type, exponent, address, scale factor's address or None)."""
    given = profile[section]
    names = []
    for name in quantities:
        phases = profile["phases"] if name in ("voltage", "current") else 0
        names += ["%s_l%d" % (name, phase + 1) for phase in range(phases)] or [name]
    if "import" in given and "total" in names:
        names.remove("total")
    names = tuple(sorted(names))
    rows = []
    for name in given:
        _check("a name in " + section, name, names)
        phase = -2 if section == "slow" else -1
        quantity = name
        if name[-3:-1] == "_l":
            phase = int(name[-1]) - 1
            quantity = name[:-3]
        attribute, units = quantities[quantity]
        row = _row(section + "." + name, given[name], kinds, units, profile["max_registers"])
        rows.append((row[0], row[1], attribute or name, phase) + row[2:])
    return rows


def check_profile(given):
    """The profile with its defaults filled in, `billing`, `slow` and `identity` as rows.

    Raises ProfileError with one line that names the field and the allowed values.
    """
    _check("the profile", given, _OBJECT)
    for field in given:
        _check("a field", field, tuple(sorted(_RULES)))
    profile = {}
    for field, rule in _RULES.items():
        profile[field] = given.get(field, _DEFAULTS.get(field))
        if field in given or field not in _DEFAULTS:
            _check(field, profile[field], rule)
    for kind in profile["missing"]:
        _check("missing", kind, tuple(sorted(WORDS)))
        _check("missing." + kind, profile["missing"][kind], [-1 << 63, (1 << 64) - 1])
    if "import" not in profile["billing"] and "total" not in profile["billing"]:
        raise ProfileError("billing.import is missing; it is required")
    profile["total_only"] = "total" in profile["billing"]
    kinds = dict(_TEXTS)
    for kind in ("u16", "u32", "u64"):
        kinds[kind] = WORDS[kind]
    profile["identity"] = _rows(profile, "identity", _NAMES, kinds)
    profile["slow"] = _rows(profile, "slow", _SLOW, WORDS)
    profile["billing"] = _rows(profile, "billing", _BILLING, WORDS)
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
            raise ValueError("not known; there is: " + ", ".join(known))
        with open(folder + name + ".json") as file:
            return parse_profile(file.read())
    except (OSError, ValueError) as error:
        raise ProfileError("meter profile %s: %s" % (name, error)) from None


def take(profile, total_is_import):
    """The checked profile of a name or a dict. Raises ProfileError; also for a meter that only
    has a total of import and export, unless that is said to be its import."""
    if isinstance(profile, str):
        profile = load_profile(profile)
    else:
        profile = check_profile(profile)
    if profile["total_only"] and not total_is_import:
        raise ProfileError("billing.import is missing: %s has only a total of import and export; "
                           "where nothing can be exported, configure total_is_import: true"
                           % profile["model"])
    return profile
