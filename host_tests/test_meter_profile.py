import json

from drivers.meter_profile import check_profile, load_profile, parse_profile
from drivers.modbus_meter import ProfileError
from fakes.profiles import profile_with
from support import raises

_SDM120 = "eastron_sdm120"


def test_every_profile_at_hand_is_right():
    profile = load_profile(_SDM120)
    assert profile["make"] == "Eastron" and profile["latency_ms"] == 300
    assert len(profile["billing"]) == 6 and len(profile["identity"]) == 3


def test_an_unknown_profile_names_those_there_are():
    for name in ("eastron_sdm999", "../eastron_sdm120", "", "eastron_sdm120.json"):
        error = raises(ProfileError, load_profile, name)
        assert _SDM120 in str(error) and "\n" not in str(error), error


def test_a_bad_profile_is_refused_with_field_and_allowed_values():
    good = ["0x0048", "f32", "kWh"]
    for changes, texts in (
        ({"order": "middle"}, ("order", "'middle'", "big, little")),
        ({"order": 1}, ("order", "1")),
        ({"confidence": "sure"}, ("confidence", "high, low, medium")),
        ({"phases": 2}, ("phases", "1, 3")),
        ({"phases": True}, ("phases", "1, 3")),
        ({"phases": 3.0}, ("phases", "1, 3")),
        ({"function": 6}, ("function", "3, 4")),
        ({"identity_function": "3"}, ("identity_function", "3, 4")),
        ({"make": ""}, ("make", "1 to 40")),
        ({"make": "\u00c4"}, ("make", "ASCII")),
        ({"model": 5}, ("model", "1 to 40")),
        ({"make": None}, ("make", "1 to 40")),
        ({"max_registers": 126}, ("max_registers", "4 to 125")),
        ({"max_registers": 3}, ("max_registers", "4 to 125")),
        ({"step_mwh": 0}, ("step_mwh", "1 to 1000000")),
        ({"step_mwh": None}, ("step_mwh", "1 to 1000000")),
        ({"gap_ms": -1}, ("gap_ms", "0 to 1000")),
        ({"latency_ms": 19}, ("latency_ms", "20 to 5000")),
        ({"unit": 248}, ("unit", "1 to 247")),
        ({"line": []}, ("line",)),
        ({"colour": "red"}, ("colour", "billing")),
        ({"billing": None}, ("billing", "a JSON object")),
        ({"billing": {}}, ("billing.import", "required")),
        ({"billing": []}, ("billing", "a JSON object")),
        ({"billing": {"import": ["0x0048", "f64", "kWh"]}}, ("billing.import", "f32")),
        ({"billing": {"import": ["0x0048", "str8", "kWh"]}}, ("billing.import", "f32")),
        ({"billing": {"import": ["0x0048", "f32", "MWh"]}}, ("billing.import", "Wh, kWh")),
        ({"billing": {"import": ["0x0048", "f32", "V"]}}, ("billing.import", "Wh, kWh")),
        ({"billing": {"import": ["0x0048", "f32", "kWh", 4]}}, ("billing.import", "-6 to 3")),
        ({"billing": {"import": ["0x0048", "f32", "kWh", True]}}, ("billing.import", "-6 to 3")),
        ({"billing": {"import": ["0x0048", "f32", "kWh", 0, 4]}}, ("billing.import",)),
        ({"billing": {"import": ["0x0048", "f32"]}}, ("billing.import",)),
        ({"billing": {"import": ["0x0048"]}}, ("billing.import",)),
        ({"billing": {"import": []}}, ("billing.import",)),
        ({"billing": {"import": "0x0048"}}, ("billing.import",)),
        ({"billing": {"import": {"a": 1}}}, ("billing.import",)),
        ({"billing": {"import": [72, "f32", "kWh"]}}, ("billing.import", "hexadecimal")),
        ({"billing": {"import": ["0x10000", "f32", "kWh"]}}, ("billing.import",)),
        ({"billing": {"import": ["address", "f32", "kWh"]}}, ("billing.import",)),
        ({"billing": {"import": ["-1", "f32", "kWh"]}}, ("billing.import",)),
        ({"billing": {"import": ["0x0048", ["f32"], "kWh"]}}, ("billing.import",)),
        ({"billing": {"import": good, "voltage": good}}, ("voltage", "voltage_l1")),
        ({"billing": {"import": good, "voltage_l4": good}}, ("voltage_l4", "voltage_l1")),
        ({"billing": {"import": good, "import_l1": good}}, ("import_l1", "import")),
        ({"phases": 1, "billing": {"import": good, "voltage_l2": good}}, ("voltage_l2",)),
        ({"identity": {"colour": ["0", "u16"]}}, ("colour", "code, firmware, serial")),
        ({"identity": {"serial": ["0x0000", "f32"]}}, ("identity.serial", "u32")),
        ({"identity": {"serial": ["0x0000", "u32", "V"]}}, ("identity.serial",)),
        ({"missing": {"u128": 1}}, ("missing", "u16")),
        ({"missing": {"u16": "ffff"}}, ("missing.u16",)),
        ({"rollover_mwh": -5}, ("rollover_mwh",)),
        ({"note": ""}, ("note", "1 to 240")),
        ({"note": "x" * 241}, ("note", "1 to 240")),
        ({"slow": []}, ("slow", "a JSON object")),
        ({"slow": {"voltage_l1": good}}, ("slow", "voltage_l1", "apparent, pf, reactive")),
        ({"slow": {"pf": ["0", "f32", "VA"]}}, ("slow.pf", "unit of , %")),
        ({"slow": {"apparent": ["0", "f32", "W"]}}, ("slow.apparent", "VA, kVA")),
        ({"slow": {"import": good}}, ("slow", "import")),
        ({"identity": {"import": good}}, ("identity", "import")),
        ({"billing": {"import": good, "total": good}}, ("total", "import")),
        ({"billing": {"export": good}}, ("billing.import", "required")),
        ({"billing": {"import": ["0xFFFF", "f32", "kWh"]}}, ("billing.import",)),
        ({"billing": {"import": ["0x10", "u32", "Wh", 0, 17]}}, ("billing.import", "scale")),
        ({"billing": {"import": ["0x10", "u32", "Wh", 0, "-1"]}}, ("billing.import", "scale")),
        ({"billing": {"import": ["0x10", "u32", "Wh", 0, "0x10000"]}}, ("billing.import",)),
        ({"billing": {"import": ["0x10", "u32", "Wh", 0, "0x90"]}},
         ("billing.import", "at most 125")),
        ({"max_registers": 4, "identity": {"serial": ["0", "str8"]}},
         ("identity.serial", "at most 4")),
    ):
        error = str(raises(ProfileError, check_profile, profile_with(**changes)))
        for text in texts:
            assert text in error, (changes, error)
        assert "\n" not in error, error
        assert "allowed: " in error or "required" in error, error
    check_profile(profile_with())
    assert check_profile(profile_with(billing={"total": good}))["total_only"]
    for nothing in (None, [], "x", 5):
        raises(ProfileError, check_profile, nothing)


def test_a_damaged_file_is_refused_at_every_length():
    text = json.dumps(profile_with())
    assert parse_profile(text)["make"] == "Maker"
    for length in range(len(text)):
        raises(ValueError, parse_profile, text[:length])
