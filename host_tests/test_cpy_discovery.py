"""Home Assistant's device discovery: by its rules, by its own schemas where a Python has them, and
read against what the firmware sends over a real mosquitto.

The package homeassistant needs a newer Python than this project; EVMETER_HOMEASSISTANT names one
that has it (2025.4 was tried).
"""

import copy
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import jinja2
import paho.mqtt.client as mqtt
import pytest

import home_assistant
from evmeter.uplink.discovery import Discovery
from evmeter_tools.bench.stand import Bench

_PYTHON = os.environ.get("EVMETER_HOMEASSISTANT")


class _Meter:
    make, model, phases = "Eastron", "SDM630", 3


def _message(phases=3):
    meter = _Meter()
    meter.phases = phases
    return "".join(Discovery("homeassistant", "demo-0001", meter).pieces())


def _by_rules(texts):
    found = []
    for text in texts:
        try:
            home_assistant.check(text)
            found.append("")
        except home_assistant.Refused as error:
            found.append(str(error))
    return found


def _by_schemas(texts):
    done = subprocess.run([_PYTHON, str(Path(home_assistant.__file__))], text=True, check=True,
                          input="".join(text.replace("\n", " ") + "\n" for text in texts),
                          capture_output=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


JUDGES = [_by_rules, _by_schemas] if _PYTHON else [_by_rules]


def _broken():
    """(what is wrong, message) of messages that must be refused."""
    def change(what, function):
        message = json.loads(_message())
        function(message)
        return what, json.dumps(message)

    yield from (change(what, function) for what, function in (
        ("no device", lambda m: m.pop("dev")),
        ("no origin", lambda m: m.pop("o")),
        ("origin without a name", lambda m: m["o"].pop("name")),
        ("device without ids", lambda m: m["dev"].pop("ids")),
        ("ids empty", lambda m: m["dev"].update(ids=[])),
        ("unknown key of the device", lambda m: m["dev"].update(colour="red")),
        ("unknown key", lambda m: m.update(colour="red")),
        ("no components", lambda m: m.pop("cmps")),
        ("components as a list", lambda m: m.update(cmps=[])),
        ("no platform", lambda m: m["cmps"]["power"].pop("p")),
        ("unknown platform", lambda m: m["cmps"]["power"].update(p="meter")),
        ("no unique id", lambda m: m["cmps"]["power"].pop("uniq_id")),
        ("one unique id twice",
         lambda m: m["cmps"]["power"].update(uniq_id=m["cmps"]["energy"]["uniq_id"])),
        ("unknown device class", lambda m: m["cmps"]["power"].update(dev_cla="strength")),
        ("unknown state class", lambda m: m["cmps"]["power"].update(stat_cla="rising")),
        ("energy as a measurement", lambda m: m["cmps"]["energy"].update(stat_cla="measurement")),
        ("unit of another class", lambda m: m["cmps"]["power"].update(unit_of_meas="kWh")),
        ("topic with a wildcard", lambda m: m.update(stat_t="evmeter/v1/+/#/tel")),
        ("no state topic", lambda m: m.pop("stat_t")),
        ("availability with a wildcard", lambda m: m.update(avty_t="evmeter/#/avail")),
        ("template not closed", lambda m: m["cmps"]["power"].update(val_tpl="{{value_json.p")),
        ("category", lambda m: m["cmps"]["unsent"].update(ent_cat="secret")),
        ("class of a binary sensor", lambda m: m["cmps"]["plug"].update(dev_cla="energy")),
    ))


@pytest.mark.parametrize("judge", JUDGES)
def test_the_message_is_taken_and_a_broken_one_is_not(judge):
    assert judge([_message(phases) for phases in (1, 2, 3)]) == ["", "", ""]
    broken = list(_broken())
    assert len(broken) > 20
    for (what, _), why in zip(broken, judge([text for _, text in broken]), strict=True):
        assert why, what


def _environment():
    def multiply(value, amount, default):
        """As Home Assistant's filter: `default` where the value is no number."""
        try:
            return float(value) * amount
        except (ValueError, TypeError):
            return default

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["multiply"] = multiply
    return environment


def _read(message, topic, payload):
    environment = _environment()
    return {key: environment.from_string(template).render(value_json=payload)
            for key, template in home_assistant.templates(message, topic).items()}


def test_templates_give_the_units_they_name():
    message = json.loads(_message())
    found = _read(message, "tel", {
        "e_mwh": 1_234_567_891_000, "s_mwh": 0, "p_mw": 7_200_500, "f_mhz": None,
        "u_mv": [230_100, 229_900, None], "i_ma": [16_020, 0, None]})
    assert {key: value if value == "None" else round(float(value), 6)
            for key, value in found.items()} == {
        "energy": 1_234_567.891, "session": 0, "power": 7200.5, "f": "None", "u1": 230.1,
        "u2": 229.9, "u3": "None", "i1": 16.02, "i2": 0, "i3": "None"}
    status = {"cp": "C", "st": "charging", "al": [], "pend": 3, "i_max_ma": 16000}
    assert _read(message, "status", status) == {
        "offer": "16.0", "state": "charging", "pilot": "C", "unsent": "3", "plug": "ON",
        "alarm": "OFF"}
    status.update(cp="A", al=["METER_LOST"], i_max_ma=None)
    found = _read(message, "status", status)
    assert (found["plug"], found["alarm"], found["offer"]) == ("OFF", "ON", "None")
    for topic in ("tel", "status"):
        assert set(home_assistant.templates(message, topic)), topic


def test_the_firmware_announces_itself_and_again_when_home_assistant_is_born(tmp_path):
    config = {"mqtt": {"discovery": "homeassistant"}}
    with Bench(tmp_path, "demo-0001", config=config) as bench:
        told, ready = [], threading.Event()
        live = {}

        def message(_client, _data, got):
            if got.topic.startswith("homeassistant/device/"):
                told.append((got.payload.decode(), got.retain))
            else:
                live[got.topic.rsplit("/", 1)[-1]] = json.loads(got.payload)

        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = message
        client.on_connect = lambda client, *_: client.subscribe([
            ("homeassistant/device/+/config", 1), ("evmeter/v1/demo-0001/tel", 1),
            ("evmeter/v1/demo-0001/status", 1)])
        client.on_subscribe = lambda *_: ready.set()
        client.connect(bench._broker.host, bench._broker.port)
        client.loop_start()
        assert ready.wait(10)

        def until(condition):
            deadline = time.monotonic() + 40
            while not condition():
                bench.check()
                assert time.monotonic() < deadline, bench.watch.lines[-20:]
                time.sleep(0.05)

        bench.device.start()
        bench.rig.tell(pilot="C", load_w=7000)
        until(lambda: len(told) == 1)
        until(lambda: live.get("tel", {}).get("s_mwh", 0) > 0 and live["status"]["cp"] == "C")
        client.publish("homeassistant/status", "online", 1)
        until(lambda: len(told) == 2)
        client.disconnect()
        client.loop_stop()
        found, now = json.loads(told[0][0]), copy.deepcopy(live)
    assert told[0][0] == told[1][0]
    for judge in JUDGES:
        assert judge([told[0][0]]) == [""]
    assert found["dev"]["mdl"] == "Eastron SDM120"
    telemetry = _read(found, "tel", now["tel"])
    assert round(float(telemetry["energy"]) * 1_000_000) == now["tel"]["e_mwh"] > 10**9
    assert round(float(telemetry["power"]) * 1000) == now["tel"]["p_mw"] > 0
    assert round(float(telemetry["u1"])) == 230
    assert _read(found, "status", now["status"])["plug"] == "ON"
