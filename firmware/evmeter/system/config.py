"""The configuration: read whole, checked whole, taken whole or not at all.

A field is described by one row: kind, lowest and highest (characters for text), default;
`REQUIRED` marks a field that has no default. Unknown fields are errors: a misspelt limit must not
be ignored.
"""

import json

from micropython import const

REQUIRED = object()
_TO_ESCAPE = '"\\|'  # up to six characters each in a record, whose length is limited
_MOST_TOLD = const(60)  # characters of a value that is refused
_ID = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

# kind: "int" | "text" | "text?" and "topic" (or null) | "record?" (likewise, goes into records) |
# "text/object" | "bool" | "tariff" | "hosts" | "keys" | tuple of allowed values
FIELDS = {
    "": {
        "id": ("text", 1, 20, REQUIRED),
        "rev": ("int", 0, 0x7FFFFFFF, 0),  # of the wish (cfg/set) that it came with
        "evse_id": ("record?", 1, 37, None),
        "charge_box_id": ("record?", 3, 37, None),  # in its place: an id, a space, the connector
        "native_signing": ("bool", 0, 0, False),  # twice as fast, for 30 KiB of memory
        "tariff": ("tariff", 0, 0, None),  # session/tariff.py says what is in it
        "tariff_text": ("record?", 1, 250, None),  # for the driver, in each record
        "controller_firmware": ("record?", 1, 25, None),  # of the charge controller, likewise
    },
    "cable_loss": {  # of a cable behind the meter; 0: there is none to be told
        "resistance": ("int", 0, 100000, 0),
        "unit": (("mOhm", "uOhm"), 0, 0, "mOhm"),
        "name": ("record?", 1, 20, None),
        "id": ("int", 0, 9999, 0),
    },
    "meter": {
        "profile": ("text/object", 1, 40, REQUIRED),  # "pulse": S0 in place of Modbus
        "unit": ("int", 1, 247, 1),
        "baud": ((1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200), 0, 0, 9600),
        "parity": (("N", "E", "O"), 0, 0, "N"),
        "stop": ((1, 2), 0, 0, 1),
        "serial": ("record?", 1, 32, None),
        "total_is_import": ("bool", 0, 0, False),
        "pass_through": ("bool", 0, 0, False),  # the records that the meter signs itself, too
        "imp_per_kwh": ("int", 0, 100000, 0),  # beside Modbus: the pulses are checked against it
        "p_max_w": ("int", 100, 500000, REQUIRED),
        # a reading older than 5 s tells nothing of now; without one for 10 s the meter is lost,
        # without a poll for 20 s the watchdog bites
        "period_ms": ("int", 200, 5000, 1000),
    },
    "pilot": {
        "front_end": ("text/object", 1, 20, "fe3"),  # drivers/pilot_front_end.py
    },
    "mqtt": {
        "host": ("text", 1, 253, REQUIRED),
        "port": ("int", 1, 65535, 8883),
        "user": ("text?", 1, 64, None),
        "password": ("text?", 1, 128, None),
        "tls": (("verified", "insecure", "off"), 0, 0, "verified"),
        "ca": ("text?", 1, 4000, None),  # DER in base64, like the next two
        "certificate": ("text?", 1, 3000, None),
        "key": ("text?", 1, 400, None),  # never reported
        "keepalive_s": ("int", 5, 1200, 30),
        "window": ("int", 1, 8, 8),
        "telemetry_s": ("int", 1, 3600, 10),
        "discovery": ("topic", 1, 40, None),  # Home Assistant's prefix, as "homeassistant"
    },
    "network": {
        "ssid": ("text?", 1, 32, None),  # of the Wi-Fi, with its password; not for Ethernet
        "password": ("text?", 8, 63, None),  # never reported
        "country": ("text?", 2, 2, None),  # whose channels are allowed
        "address": ("text?", 7, 15, None),  # without one: DHCP
        "mask": ("text", 7, 15, "255.255.255.0"),
        "gateway": ("text", 7, 15, "0.0.0.0"),  # noqa: S104
        "dns": ("hosts", 0, 2, ()),
    },
    "journal": {
        "store": (("ring", "littlefs"), 0, 0, "ring"),  # the ring wears the flash a sixth as much
    },
    "session": {
        "finished_after_s": ("int", 1, 3600, 120),
        "checkpoint_s": ("int", 5, 600, 60),
    },
    "clock": {
        "battery": ("bool", 0, 0, False),
        "servers": ("hosts", 0, 4, ()),  # of time (SNTP): names, each with or without ":port"
        "time_authority": ("bool", 0, 0, False),  # two servers that agree make time of quality S
        "s_max_age_s": ("int", 60, 604800, 21600),  # S that nothing renews becomes I,
        "i_max_age_s": ("int", 60, 31536000, 604800),  # I becomes U
    },
    "alarms": {  # above or below which there is one; 0: this is not watched
        "over_voltage_v": ("int", 0, 1000, 253),
        "under_voltage_v": ("int", 0, 1000, 207),
        "over_current_percent": ("int", 0, 200, 10),  # more than the pilot offers, and 1 A
        "stray_w": ("int", 0, 100000, 100),  # power while no session is open
        "temperature_c": ("int", 0, 150, 85),
    },
    "operator": {
        "keys": ("keys", 0, 4, ()),  # SubjectPublicKeyInfo in hex: whose signed commands count
        "all_signed": ("bool", 0, 0, False),  # commands without a signature are refused
    },
    "update": {
        "keys": ("keys", 0, 2, ()),  # whose firmware is taken, likewise
    },
}


class ConfigError(Exception):
    """The configuration cannot be taken; the text names the field and what is allowed."""


def _refuse(name, value, allowed):
    from evmeter.system.report import SECRET

    told = repr(value)
    if name in SECRET:  # this goes into logs and to the broker
        told = "%d characters long" % len(value) if isinstance(value, str) else "no text"
    elif len(told) > _MOST_TOLD:
        told = told[:_MOST_TOLD] + ".."
    raise ConfigError("%s is %s; allowed: %s" % (name, told, allowed))


def _check_tariff(value):
    if value is not None:
        from evmeter.session.tariff import Tariff

        try:
            Tariff(value)
        except ValueError as error:
            raise ConfigError(str(error)) from None


def _check_hosts(name, value, most):
    if not isinstance(value, (list, tuple)) or len(value) > most:
        _refuse(name, value, "a list of at most %d names" % most)
    for one in value:
        _check(name, one, ("text", 1, 64, None))
        host, colon, port = one.partition(":")
        if not host or " " in one or (
                colon and not (port.isdigit() and 0 < int(port) < 65536)):
            raise ConfigError("%s has %r; allowed: a name, or a name:port" % (name, one))


def _check_text(name, value, row):
    kind, low, high, _ = row
    if (value is None if kind in ("text?", "record?", "topic") else
            isinstance(value, dict) and kind == "text/object"):
        return
    if not isinstance(value, str) or not low <= len(value) <= high:
        _refuse(name, value, "a text of %d to %d characters%s"
                % (low, high, ", a JSON object" if kind == "text/object" else ""))
    for character in value:
        if not " " <= character <= "~":
            raise ConfigError("%s holds a character outside printable ASCII" % name)
        if kind == "record?" and character in _TO_ESCAPE:
            raise ConfigError("%s holds %s, which has no room in records" % (name, character))
    if kind == "topic" and (value.strip("/") != value or "+" in value or "#" in value):
        _refuse(name, value, "a topic without + and #, nor / at an end")


def _check_keys(name, value, most):
    from evmeter.ledger.signer import point

    if not isinstance(value, (list, tuple)) or len(value) > most:
        _refuse(name, value, "a list of at most %d keys" % most)
    for one in value:
        try:
            point(one)
        except (ValueError, TypeError):
            _refuse("one of " + name, one, "SubjectPublicKeyInfo of a P-256 key in hex")


def _check(name, value, row):
    kind, low, high, _ = row
    if isinstance(kind, tuple):
        if value not in kind or type(value) is not type(kind[0]):
            _refuse(name, value, ", ".join(map(str, kind)))
    elif kind == "tariff":
        _check_tariff(value)
    elif kind == "hosts":
        _check_hosts(name, value, high)
    elif kind == "keys":
        _check_keys(name, value, high)
    elif kind == "bool":
        if not isinstance(value, bool):
            _refuse(name, value, "true, false")
    elif kind == "int":
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            _refuse(name, value, "a whole number from %d to %d" % (low, high))
    else:
        _check_text(name, value, row)


def _check_place(place, evse_id):
    """OCMF 1.3, table 8: a charge box's id, one space, the connector's number."""
    if place is not None:
        box, _, connector = place.partition(" ")
        if evse_id is not None or not box or not connector.isdigit():
            _refuse("charge_box_id", place,
                    "an id, a space, a number; and no evse_id beside it")


def load(text, what="the configuration"):
    """The JSON object in `text`, as a dict. Raises ConfigError, in which it is called `what`."""
    try:
        # MicroPython's json takes an object that is cut short: only behind a whole one stands a 0
        found = json.loads("[%s,0]" % text)
    except (ValueError, RuntimeError, MemoryError):
        # nested too deep: MemoryError or RuntimeError on MicroPython, RuntimeError on CPython
        found = ()
    if len(found) != 2 or found[1] != 0:
        raise ConfigError("%s is not valid JSON" % what)
    if not isinstance(found[0], dict):
        raise ConfigError("%s must be a JSON object" % what)
    return found[0]


def parse(text):
    """The configuration in `text` (JSON) as a dict of dicts with every default filled in.

    Raises ConfigError with one line that names the field and the allowed values.
    """
    return check(load(text))


def check(given):
    """As `parse`, from what the JSON holds."""
    result = {}
    for name in given:
        if not name or (name not in FIELDS and name not in FIELDS[""]):
            raise ConfigError("unknown field %s" % repr(name)[1:-1][:_MOST_TOLD])
    for section in FIELDS:
        source = given.get(section, {}) if section else given
        if not isinstance(source, dict):
            raise ConfigError("%s must be a JSON object" % section)
        target = result
        if section:
            target = result[section] = {}
            for name in source:
                if name not in FIELDS[section]:
                    raise ConfigError("unknown field %s.%s"
                                      % (section, repr(name)[1:-1][:_MOST_TOLD]))
        for name in FIELDS[section]:
            row = FIELDS[section][name]
            value = source.get(name, row[3])
            path = section + "." + name if section else name
            if value is REQUIRED:
                raise ConfigError("%s is missing" % path)
            _check(path, value, row)
            target[name] = value
    _check_place(result["charge_box_id"], result["evse_id"])
    identity = result["id"]
    if identity[0] == "_" or any(character not in _ID for character in identity):
        _refuse("id", identity, "A-Z a-z 0-9 _ -, not beginning with _")
    return result
