import json

from evmeter.system import config, report, twin
from fakes.clock import FakeClock
from fakes.memory_store import MemoryNvs
from fakes.reported import shown
from support import raises

_GIVEN = {
    "id": "demo-0001", "rev": 5, "evse_id": "DE*ABC*E1",
    "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
    "mqtt": {"host": "broker.example", "user": "demo-0001", "password": "geheim-17",
             "key": "MHcCAQEEIK" * 10, "ca": "MIIBszCCAVmg" * 60},
}
_SETTINGS = config.parse(json.dumps(_GIVEN))


def _copy(value):
    return json.loads(json.dumps(value))


def _wish(settings=None):
    return shown(settings or _SETTINGS)[0]


def test_no_secret_is_shown():
    told, kept = shown(_SETTINGS)
    text = json.dumps([told, kept])
    for secret in ("geheim", "MHcC", "MIIB"):
        assert secret not in text, secret
    assert sorted(kept) == ["mqtt.ca", "mqtt.key", "mqtt.password"]
    assert kept["mqtt.password"] == kept["mqtt.key"] == "set"
    assert len(kept["mqtt.ca"]) == 23  # who has it can compare
    # a field whose name says that it is secret must not come in unseen
    for section in config.FIELDS:
        for name in config.FIELDS[section]:
            path = section + "." + name if section else name
            for word in ("password", "passphrase", "secret", "token", "psk", "private", "pin"):
                assert word not in name or path in report.SECRET, path
            assert name != "key" or path in report.SECRET, path


def test_what_is_shown_and_sent_back_changes_nothing():
    new = twin.merged(_SETTINGS, _wish(), 6)
    assert list(twin.changes(_SETTINGS, new)) == ["rev"]
    assert new["mqtt"]["password"] == "geheim-17"
    assert new["rev"] == 6


def test_a_hidden_field_can_be_changed_and_taken_away():
    wish = _wish()
    wish["mqtt"]["password"] = "other"
    wish["mqtt"]["key"] = None
    new = twin.merged(_SETTINGS, wish, 6)
    assert (new["mqtt"]["password"], new["mqtt"]["key"]) == ("other", None)
    assert new["mqtt"]["ca"] == _GIVEN["mqtt"]["ca"]
    found = twin.changes(_SETTINGS, new)
    assert sorted(found) == ["mqtt.key", "mqtt.password", "rev"]
    told = twin.told(found, twin.to_sign(found))
    assert told == {"mqtt.key": ["set", None], "mqtt.password": ["set", "set"]}
    # a shown field that is left out gets its default
    wish = _wish()
    del wish["evse_id"], wish["mqtt"]["user"]
    new = twin.merged(_SETTINGS, wish, 6)
    assert (new["evse_id"], new["mqtt"]["user"]) == (None, None)


def test_a_wish_that_is_not_whole_is_refused():
    for section, name, value, words in (
        ("meter", "p_max_w", 1, "meter.p_max_w is 1"), ("", "colour", 1, "unknown field colour"),
        ("", "rev", 7, "rev stands beside cfg"), ("", "mqtt", 3, "mqtt must be"),
        ("", "meter", {}, " is missing"), ("mqtt", "key", 5, "mqtt.key is no text"),
        ("operator", "keys", ["30"], "one of operator.keys is '30'"),
        ("operator", "keys", [None], "one of operator.keys is None"),
        ("operator", "keys", "30", "a list of at most 4 keys"),
    ):
        wish = _wish()
        (wish[section] if section else wish)[name] = value
        message = str(raises(config.ConfigError, twin.merged, _SETTINGS, wish, 6))
        assert words in message, (words, message)


def test_only_a_few_fields_are_open():
    every = {}
    for section in config.FIELDS:
        for name in config.FIELDS[section]:
            every[section + "." + name if section else name] = (0, 1)
    for path in twin._FIXED:
        every.pop(path, None)
    signed = twin.to_sign(every)
    assert sorted(set(every) - set(signed)) == [
        "mqtt.keepalive_s", "mqtt.telemetry_s", "mqtt.window", "rev", "session.checkpoint_s",
        "session.finished_after_s"]
    for path in ("id", "evse_id", "tariff", "cable_loss.resistance", "meter.serial", "mqtt.host",
                 "clock.time_authority", "operator.keys", "operator.all_signed"):
        assert path in signed, path
    assert "beside the device" in str(
        raises(config.ConfigError, twin.to_sign, {"journal.store": ("ring", "littlefs")}))


def test_the_audit_log_gets_old_and_new():
    wish = _wish()
    wish["evse_id"] = "DE*ABC*E2"
    wish["mqtt"]["telemetry_s"] = 5
    wish["mqtt"]["ca"] = "MIIC" * 10
    wish["tariff_text"] = "t" * 200
    found = twin.changes(_SETTINGS, twin.merged(_SETTINGS, wish, 6))
    told = twin.told(found, twin.to_sign(found))
    assert sorted(told) == ["evse_id", "mqtt.ca", "tariff_text"]
    assert told["evse_id"] == ["DE*ABC*E1", "DE*ABC*E2"]
    assert told["mqtt.ca"][0].startswith("sha256:") and told["mqtt.ca"][1] == "MIIC" * 10
    assert told["tariff_text"][0] is None and told["tariff_text"][1].startswith("sha256:")
    many = {"meter.field%02d" % number: ("x" * 30, "y" * 30) for number in range(30)}
    assert "30 fields" in str(raises(config.ConfigError, twin.told, many, sorted(many)))


def test_what_is_too_long_for_a_message_is_kept_back():
    wish = _wish()
    wish["tariff_text"] = "t" * 250
    hours = list(range(15)) + [24]
    wish["tariff"] = {"currency": "EUR", "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "windows": [
        {"name": "window %02d ......" % number, "from": "%02d:00" % hours[number],
         "to": "%02d:00" % hours[number + 1], "centiminor_per_kwh": 3000 + number}
        for number in range(15)]}
    long = twin.merged(_SETTINGS, wish, 6)
    told, kept = shown(long)
    assert "tariff" in kept and "tariff" not in told
    again = twin.merged(long, _wish(long), 7)
    assert again["tariff"] == wish["tariff"]

    class App:
        config = long
        clock = FakeClock(1_790_000_000_000)
        nvs = MemoryNvs()

    App.board = App
    assert len("".join(report.report(App, 7, "w" * 300))) <= 2560  # what the uplink sends


def test_the_longest_configuration_is_reported_too():
    class App:
        clock = FakeClock(1_790_000_000_000)
        nvs = MemoryNvs()

    App.board = App
    for mark in ('a', '"', "\\"):
        App.config = config.parse(json.dumps({
            "id": "A" * 20, "rev": 0x7FFFFFFF, "evse_id": "E" * 37, "tariff_text": "t" * 250,
            "controller_firmware": "c" * 25, "cable_loss": {"name": "n" * 20},
            "meter": {"profile": "p" * 40, "serial": "s" * 32, "p_max_w": 500000},
            "mqtt": {"host": mark * 253, "user": mark * 64, "password": "geheim" * 20,
                     "ca": "C" * 4000, "certificate": "D" * 3000, "key": "geheim" * 60,
                     "discovery": mark * 40},
            "network": {"ssid": mark * 32, "password": "geheim" * 10, "country": mark * 2,
                        "mask": mark * 15, "gateway": mark * 15, "dns": [mark * 64] * 2},
            "clock": {"servers": [mark * 64] * 4}}))
        for why in ("", "w" * 300, mark * 300, "\u20ac" * 300):
            text = "".join(report.report(App, 7, why))
            assert len(text.encode()) <= 2560 and "geheim" not in text, (mark, why)
            told = json.loads(text)
            assert why == "" or told["err"].startswith(why[:20])
            new = twin.merged(App.config, told["cfg"], 6)
            assert list(twin.changes(App.config, new)) == ["rev"], mark
