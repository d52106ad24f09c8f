"""Texts from the operator: the configuration and meter profiles."""

import json
import sys

from changes import changed

import drivers
from drivers import meter_profile
from drivers.meter_profile import parse_profile
from drivers.modbus_meter import ModbusMeter, ProfileError
from evmeter.metering.reading import Reading
from evmeter.metering.registers import WORDS
from evmeter.system import config
from evmeter.system.config import parse
from evmeter_tools.paths import ROOT

_KEY = ("3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277"
        "037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf"
        "51f5")  # of the secret 1
_CONFIG = {
    "id": "demo-0001", "evse_id": None,
    "meter": {"profile": "x", "unit": 1, "baud": 9600, "parity": "N", "stop": 1, "serial": None,
              "p_max_w": 11000, "period_ms": 1000},
    "pilot": {"front_end": "fe3"}, "mqtt": {"host": "h", "port": 1883, "window": 4},
    "session": {"finished_after_s": 120}, "clock": {"battery": True},
    "operator": {"keys": [_KEY]}}
_PROFILES = [json.loads(path.read_text())
             for path in sorted((ROOT / "drivers/meter_profiles").glob("*.json"))]
_ROWS = ("u16", "i16", "u64", "i64", "t5", "t6", "str8", "str16", "kWh", "Wh", "kW", "%", "0xFFFF",
         "0xFFFE", "0x0000", "-1", "0x10000", 3, 4, -6, -7, 125, 126, 5000, 247,
         ["0x0000", "f32", "V"], ["0x0200", "i64", "kWh", -3], ["0x0001", "u32", "Wh", 0, "0x7D"],
         ["0x0001", "u32", "Wh", 0, "0x7E"], ["0x0001", "u32", "Wh", 0, None])
_QUANTITIES = ("import", "total", "export", "power", "voltage_l1", "voltage_l3", "voltage_l4",
               "pf", "current", "serial", "missing", "rollover_mwh", "latency_ms", "phases",
               "order")
_GOOD = json.dumps(_CONFIG)
_GOOD_PROFILES = {json.dumps(one) for one in _PROFILES}
_MOST_LINE = 100000


def configuration(data):
    """The configuration: whole and within its limits, or ConfigError in one line."""
    if data[:1] == b"\x01":
        text = changed(_CONFIG, data[1:])
    else:
        text = data.decode("utf-8", "replace")
    try:
        found = parse(text)
    except config.ConfigError as error:
        assert str(error) and "\n" not in str(error), "not one line"
        assert json.dumps(_loaded(text)) != _GOOD, "refused a good one"
        return
    given = _loaded(text)
    assert isinstance(given, dict), "took what is no JSON object"
    for section, rows in config.FIELDS.items():
        told = given.get(section, {}) if section else given
        assert set(told) <= set(rows) | (set() if section else set(config.FIELDS)), "unknown"
        for name, (kind, low, high, default) in rows.items():
            value = (found[section] if section else found)[name]
            assert value == told.get(name, default), "another value"
            if kind == "int":
                assert type(value) is int and low <= value <= high, name
            elif isinstance(kind, tuple):
                assert value in kind and type(value) is type(kind[0]), name
            elif kind == "bool":
                assert type(value) is bool, name
            elif kind == "hosts":
                assert len(value) <= high and all(
                    isinstance(one, str) and 1 <= len(one) <= 64 for one in value), name
            elif kind == "keys":
                assert len(value) <= high and all(
                    len(one) == 182 and bytes.fromhex(one)[26] == 4 for one in value), name
            elif isinstance(value, dict):
                assert kind in ("text/object", "tariff"), name
            elif value is None:
                assert kind in ("text?", "record?", "topic", "tariff"), name
            else:
                assert low <= len(value) <= high and value.isascii() and value.isprintable(), name
                assert kind != "record?" or not set(value) & set('"\\|'), name


def _loaded(text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class _Bus:
    char_us = 1042
    gap_ms = 0


def _check_rows(found, given):
    """The rows of a checked profile against what the file says."""
    for section in ("billing", "slow", "identity"):
        told = given.get(section, {})
        assert len(found[section]) == len(told), "rows lost"
        for row, name in zip(found[section], told, strict=True):
            first, count, _, _, kind, exponent, at, scale = row
            assert at == int(told[name][0], 16) and kind == told[name][1], name
            assert 0 <= first and first + count <= 0x10000, "registers that are not there"
            assert 1 <= count <= given["max_registers"], "more than the meter gives"
            assert first <= at and (scale is None or first <= scale < first + count), name
            assert -3 <= exponent <= 9, "a magnitude that the decoder does not take"
            assert section == "identity" or kind in WORDS, kind


def _read(given, data):
    """What a meter of this profile makes of any registers: whole numbers or None."""
    # the meter drops the module after use: importing it anew for each input would be slow
    sys.modules["drivers.meter_profile"] = drivers.meter_profile = meter_profile
    bus = _Bus()
    meter = ModbusMeter(bus, given, 1, None, True)
    reading = Reading(meter.phases)
    meter._reading = reading
    requests = meter._requests + meter._slow
    assert any(row[2] == "import_mwh" for row in meter._requests[-1][2]), "import is not last"
    for request in requests:
        assert 1 <= request[1] <= given["max_registers"] and request[0] + request[1] <= 0x10000
        meter._fill(request, (data * (2 * request[1] // len(data) + 1))[:2 * request[1]])
    for value in (reading.import_mwh, reading.power_mw, reading.pf_milli, *reading.voltages_mv):
        assert value is None or type(value) is int, "no whole number"


def profile(data):
    """A meter profile: what is taken can be planned and read, what is refused names the field."""
    if data[:1] < b"\x80" and len(data) > 1:
        text = changed(_PROFILES[data[0] % len(_PROFILES)], data[1:], _ROWS, _QUANTITIES)
    else:
        text = data[1:].decode("utf-8", "replace")
    given = _loaded(text)
    try:
        found = parse_profile(text)
    except ProfileError as error:
        line = str(error)
        assert "allowed: " in line or "required" in line, line
        assert "\n" not in line and len(line) < _MOST_LINE, "not one line"
        assert json.dumps(given) not in _GOOD_PROFILES, "refused a good one"
        return
    except (ValueError, RuntimeError):  # no JSON, or nested too deep
        assert given is None or text.count("{") != text.count("}") or (
            text.count("[") != text.count("]")), "refused what is JSON"
        return
    _check_rows(found, given)
    _read(given, data)


