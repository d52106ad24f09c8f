import json

from evmeter.system import config
from support import raises

_GOOD = {
    "id": "demo-0001",
    "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
    "mqtt": {"host": "127.0.0.1"},
}


def _with(section, name, value):
    changed = json.loads(json.dumps(_GOOD))
    if section:
        changed.setdefault(section, {})[name] = value
    else:
        changed[name] = value
    return json.dumps(changed)


def test_defaults_are_filled_in():
    result = config.parse(json.dumps(_GOOD))
    assert result["id"] == "demo-0001"
    assert result["meter"]["unit"] == 1
    assert result["meter"]["baud"] == 9600
    assert result["mqtt"]["port"] == 8883
    assert result["session"]["finished_after_s"] == 120
    assert result["mqtt"]["password"] is None


def test_a_profile_is_a_name_or_an_object():
    for profile in ("eastron_sdm120", "pulse", {"make": "Any"}):
        assert config.parse(_with("meter", "profile", profile))["meter"]["profile"] == profile
    for serial in (None, "4711"):
        assert config.parse(_with("meter", "serial", serial))["meter"]["serial"] == serial


def test_a_bad_field_is_refused_by_name_and_with_what_is_allowed():
    for section, name, value, words in (
        ("", "id", "_x", ("id", "A-Z")),
        ("", "id", "a" * 21, ("id", "1 to 20")),
        ("", "id", "a b", ("id", "A-Z")),
        ("", "id", None, ("id", "text")),
        ("", "colour", 1, ("unknown field colour",)),
        ("meter", "baud", 9601, ("meter.baud", "9600")),
        ("meter", "baud", True, ("meter.baud", "9600")),
        ("meter", "unit", 0, ("meter.unit", "1 to 247")),
        ("meter", "unit", "1", ("meter.unit", "whole number")),
        ("meter", "unit", True, ("meter.unit", "whole number")),
        ("meter", "parity", "X", ("meter.parity", "N, E, O")),
        ("meter", "speed", 1, ("unknown field meter.speed",)),
        ("meter", "profile", "", ("meter.profile", "1 to 40 characters, a JSON object")),
        ("meter", "profile", 7, ("meter.profile", "a JSON object")),
        ("meter", "profile", None, ("meter.profile", "a JSON object")),
        ("meter", "serial", {}, ("meter.serial", "1 to 32 characters")),
        ("meter", "period_ms", 5001, ("meter.period_ms", "200 to 5000")),
        ("meter", "imp_per_kwh", 100001, ("meter.imp_per_kwh", "0 to 100000")),
        ("mqtt", "host", "", ("mqtt.host", "1 to 253")),
        ("mqtt", "host", "a\u00e4", ("mqtt.host", "ASCII")),
        ("mqtt", "window", 9, ("mqtt.window", "1 to 8")),
        ("clock", "battery", 1, ("clock.battery", "true, false")),
        ("clock", "time_authority", None, ("clock.time_authority", "true, false")),
        ("clock", "servers", "a", ("clock.servers", "a list of at most 4 names")),
        ("clock", "servers", ["a"] * 5, ("clock.servers", "at most 4")),
        ("clock", "servers", [""], ("clock.servers", "1 to 64")),
        ("clock", "servers", [7], ("clock.servers", "a text")),
        ("clock", "servers", ["a:"], ("clock.servers", "name:port")),
        ("clock", "servers", [":1"], ("clock.servers", "name:port")),
        ("clock", "servers", ["a b"], ("clock.servers", "name:port")),
        ("clock", "servers", ["a:65536"], ("clock.servers", "name:port")),
        ("clock", "servers", ["a:x"], ("clock.servers", "name:port")),
        ("clock", "s_max_age_s", 59, ("clock.s_max_age_s", "60 to 604800")),
        ("clock", "i_max_age_s", 0, ("clock.i_max_age_s", "60 to 31536000")),
    ):
        message = str(raises(config.ConfigError, config.parse, _with(section, name, value)))
        for word in words:
            assert word in message, (message, word)


def test_what_is_refused_is_told_in_one_short_line_without_a_secret():
    for section, name, value, words in (
        ("network", "password", "geheim", "network.password is 6 characters long; allowed: a"),
        ("mqtt", "password", {"geheim": 1}, "mqtt.password is no text; allowed: a text of 1 to"),
        ("mqtt", "key", "geheim" * 70, "mqtt.key is 420 characters long; allowed: a text of 1 to"),
        ("mqtt", "host", "h" * 9000, "hhh..; allowed: a text of 1 to 253 characters"),
        ("meter", "unit", ["9" * 9000], "999..; allowed: a whole number from 1 to 247"),
        ("meter", "u" * 9000, 1, "unknown field meter.uuu"),
        ("", "u" * 9000, 1, "unknown field uuu"),
    ):
        message = str(raises(config.ConfigError, config.parse, _with(section, name, value)))
        assert words in message and "geheim" not in message, message
        assert len(message) < 160, message


def test_what_is_not_a_configuration_is_refused():
    for text, word in (
        ("", "JSON"),
        ("{", "JSON"),
        ('{"id": "a", "meter": {"profile": "p", "p_max_w": 1000}, "mqtt": {"host": "h"}', "JSON"),
        ('{"id": "a", "meter": {"profile": "p", "p_max_w": 1000}, "mqtt": {"host": "h', "JSON"),
        ("[]", "object"),
        ('{"id": "a", "meter": 1, "mqtt": {"host": "h"}}', "meter must be"),
        ('{"id": "a", "meter": {"profile": "p", "p_max_w": 1000}}', "mqtt.host is missing"),
        ('{"meter": {"profile": "p", "p_max_w": 1000}, "mqtt": {"host": "h"}}', "id is missing"),
    ):
        message = str(raises(config.ConfigError, config.parse, text))
        assert word in message, (text, message)


def test_brackets_and_quotes_inside_a_text_are_no_structure():
    good = dict(_GOOD, mqtt=dict(_GOOD["mqtt"], user='a}]"{['))
    assert config.parse(json.dumps(good))["mqtt"]["user"] == 'a}]"{['


def test_what_goes_into_records_needs_no_escape_and_a_place_is_told_one_way():
    for name in ("evse_id", "tariff_text", "controller_firmware"):
        for text in ('a"b', "a\\b", "a|b"):
            assert "no room" in str(raises(config.ConfigError, config.parse,
                                           json.dumps(dict(_GOOD, **{name: text}))))
    good = dict(_GOOD, charge_box_id="BOX-7 2")
    assert config.parse(json.dumps(good))["charge_box_id"] == "BOX-7 2"
    for more in ({"charge_box_id": "BOX7"}, {"charge_box_id": "BOX 7 a"}, {"charge_box_id": " 12"},
                 {"charge_box_id": "BOX 1", "evse_id": "DE*1"}):
        assert "charge_box_id is" in str(raises(config.ConfigError, config.parse,
                                                json.dumps(dict(_GOOD, **more))))


def test_a_prefix_is_a_topic():
    for prefix in (None, "homeassistant", "a/b"):
        text = _with("mqtt", "discovery", prefix)
        assert config.parse(text)["mqtt"]["discovery"] == prefix
    for prefix in ("", "a/", "/a", "+", "a/#", 7, "x" * 41, "\u00e4"):
        error = raises(config.ConfigError, config.parse, _with("mqtt", "discovery", prefix))
        assert "mqtt.discovery" in str(error), prefix
