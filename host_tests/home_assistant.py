"""What Home Assistant takes as MQTT device discovery: by its documented rules, and by its own
schemas where a Python has them.

As a program under a Python with the package homeassistant: home_assistant.py reads messages, one a
line, and prints "" or why it refuses each, as JSON, one a line.

Rules: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, .../sensor.mqtt,
.../binary_sensor.mqtt; units and state classes of device classes from
https://developers.home-assistant.io/docs/core/entity/sensor/#available-device-classes.
"""

import asyncio
import json
import re
import sys
import tempfile

# abbreviations that the device uses, and what they stand for
_DEVICE = {"ids": "identifiers", "name": "name", "mf": "manufacturer", "mdl": "model",
           "sw": "sw_version", "sn": "serial_number"}
_ORIGIN = {"name": "name", "sw": "sw_version", "url": "support_url"}
_TOP = {"dev", "o", "cmps", "avty_t", "stat_t", "qos"}
_PART = {"p", "uniq_id", "name", "val_tpl", "dev_cla", "unit_of_meas", "stat_t", "ent_cat"}
_SENSOR = _PART | {"stat_cla"}
_STATE_CLASSES = {"measurement", "total", "total_increasing"}
_UNITS = {"energy": {"Wh", "kWh", "MWh"}, "power": {"W", "kW"}, "voltage": {"V", "mV"},
          "current": {"A", "mA"}, "frequency": {"Hz", "kHz"}}
_CLASSES = {"energy": {"total", "total_increasing"}}
_BINARY = {"plug", "problem", "power", "battery_charging"}
_TOPIC = re.compile(r"[^+#\x00]+")


class Refused(ValueError):
    """Home Assistant would not take the message; the text says why."""


def _need(condition, why):
    if not condition:
        raise Refused(why)


def _text(value, what):
    _need(isinstance(value, str) and value != "", "%s is no text" % what)


def _part(key, part, has_topic):
    _need(isinstance(part, dict), "component %s is no object" % key)
    platform = part.get("p")
    _need(platform in ("sensor", "binary_sensor"), "component %s: platform %r" % (key, platform))
    _need(set(part) <= (_SENSOR if platform == "sensor" else _PART),
          "component %s: unknown %s" % (key, sorted(set(part) - _PART)))
    _text(part.get("uniq_id"), "unique id of %s" % key)
    _need(has_topic or "stat_t" in part, "component %s has no state topic" % key)
    if "stat_t" in part:
        _need(isinstance(part["stat_t"], str) and _TOPIC.fullmatch(part["stat_t"]), "topic")
    for name in ("name", "val_tpl"):
        if name in part:
            _text(part[name], name)
    template = part.get("val_tpl", "{{}}")
    _need(template.count("{{") == template.count("}}") > 0, "template of %s" % key)
    _need(part.get("ent_cat", "diagnostic") in ("diagnostic", "config"), "category of %s" % key)
    kind = part.get("dev_cla")
    if platform == "binary_sensor":
        _need(kind is None or kind in _BINARY, "device class %s" % kind)
        _need("unit_of_meas" not in part, "a binary sensor has no unit")
        return
    _need(kind is None or kind in _UNITS, "device class %s" % kind)
    if kind:
        _need(part.get("unit_of_meas") in _UNITS[kind], "unit of %s" % key)
    state = part.get("stat_cla")
    _need(state is None or state in _CLASSES.get(kind, _STATE_CLASSES), "state class of %s" % key)


def check(text):
    """Raise Refused where a message (JSON) is not by the rules."""
    try:
        message = json.loads(text)
    except ValueError as error:
        raise Refused("no JSON: %s" % error) from None
    _need(isinstance(message, dict) and set(message) <= _TOP, "unknown keys")
    device, origin, parts = message.get("dev"), message.get("o"), message.get("cmps")
    _need(isinstance(device, dict) and set(device) <= set(_DEVICE), "device")
    ids = device.get("ids")
    _need(isinstance(ids, list) and ids and all(isinstance(one, str) for one in ids), "no ids")
    _need(isinstance(origin, dict) and set(origin) <= set(_ORIGIN), "origin")
    _text(origin.get("name"), "origin's name")
    for value in (*(value for key, value in device.items() if key != "ids"), *origin.values()):
        _text(value, "device or origin")
    for name in ("avty_t", "stat_t"):
        if name in message:
            _need(isinstance(message[name], str) and _TOPIC.fullmatch(message[name]), name)
    _need(isinstance(parts, dict) and parts, "no components")
    for key, part in parts.items():
        _part(key, part, "stat_t" in message)
    _need(len({part["uniq_id"] for part in parts.values()}) == len(parts), "unique ids repeat")


def templates(message, topic):
    """{component: template} of those that read `topic` (the last part of it)."""
    return {key: part["val_tpl"] for key, part in message["cmps"].items()
            if part.get("stat_t", message["stat_t"]).endswith("/" + topic)}


def _schemas(text):
    """Raise what the package homeassistant raises; the steps are those of its
    components/mqtt/discovery.py."""
    from homeassistant.components import sensor as sensors
    from homeassistant.components.mqtt import binary_sensor, discovery, schemas, sensor

    message = json.loads(text)
    discovery._replace_all_abbreviations(message)
    schemas.DEVICE_DISCOVERY_SCHEMA(message)
    ids = set()
    for part in message["components"].values():
        config = {**part, "device": message["device"], "origin": message["origin"]}
        discovery._merge_common_device_options(config, message)
        platform = config.pop("platform")
        found = {"sensor": sensor, "binary_sensor": binary_sensor}[platform].DISCOVERY_SCHEMA(
            config)
        if platform == "sensor":
            kind, state = found.get("device_class"), found.get("state_class")
            unit = found.get("unit_of_measurement")
            # these two Home Assistant tells in its log only
            if kind in sensors.DEVICE_CLASS_UNITS and unit not in sensors.DEVICE_CLASS_UNITS[kind]:
                raise ValueError("unit %s of device class %s" % (unit, kind))
            allowed = sensors.const.DEVICE_CLASS_STATE_CLASSES.get(kind)
            if state and allowed is not None and state not in allowed:
                raise ValueError("state class %s of device class %s" % (state, kind))
        if found["unique_id"] in ids:
            raise ValueError("unique id %s repeats" % found["unique_id"])
        ids.add(found["unique_id"])


async def main():
    """Judge the messages on standard input by the package's schemas."""
    from homeassistant.core import HomeAssistant
    from homeassistant.helpers import frame

    frame.async_setup(HomeAssistant(tempfile.gettempdir()))  # templates are parsed by one
    for line in sys.stdin:
        try:
            _schemas(line)
            print(json.dumps(""), flush=True)
        except Exception as error:
            print(json.dumps(str(error) or repr(error)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
