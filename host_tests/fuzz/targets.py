"""What the fuzzer feeds: one function for each parser, over bytes.

Each lets out nothing but what the parser declares, and holds its answers against a second opinion;
AssertionError and every other exception are findings.
"""

import binascii
import json
import struct
from decimal import Decimal

from drivers.modbus_rtu import ModbusError, find_reply
from evmeter.metering.gate import Gate
from evmeter.metering.reading import Reading
from evmeter.metering.registers import WORDS, decode
from evmeter.system import config
from evmeter.uplink.publisher import parse_ack
from evmeter_tools.verify import parse

_P_MAX_W = 11000
_STEP_MWH = 1000
_KINDS = sorted(set(WORDS) - {"t5", "t6"})  # Iskra's types have no like in struct
KEY_ID = "a1b2c3d4"
_ACK = {"v": 1, "k": KEY_ID, "cum": 3, "sel": [5, 7], "bad": [{"seq": 4}]}
_CONFIG = {
    "id": "demo-0001", "evse_id": None,
    "meter": {"profile": "x", "unit": 1, "baud": 9600, "parity": "N", "stop": 1, "serial": None,
              "p_max_w": 11000, "period_ms": 1000},
    "pilot": {"front_end": "fe3"}, "mqtt": {"host": "h", "port": 1883, "window": 4},
    "session": {"finished_after_s": 120}, "clock": {"battery": True}}
HIGHEST = 70000


def crc(data):
    """CRC-16 of Modbus, bit by bit."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


def modbus(data):
    """Unit, function and count, then what came over the line."""
    if len(data) < 3:
        return
    unit, function, count = data[0] or 1, 3 + (data[1] & 1), 1 + data[2] % 125
    line = data[3:291]
    # Half of the inputs get right CRCs at a place that they choose, which mutation hardly finds.
    if len(line) > 6 and data[1] & 2:
        end = 3 + line[2] + 2
        if end <= len(line):
            line = line[: end - 2] + crc(line[: end - 2]) + line[end:]
    try:
        at = find_reply(line, len(line), unit, function, count)
    except ModbusError as error:
        code = bytes((unit, function | 0x80, error.code))
        assert code + crc(code) in line, "an exception that was not there"
        return
    if at < 0:
        assert -at <= 5 + 2 * count, "more bytes missing than a reply has"
        return
    body = line[at - 3:at + 2 * count]
    assert at >= 3, "a reply that begins before the line"
    assert body[:3] == bytes((unit, function, 2 * count)), "another reply"
    assert line[at + 2 * count:at + 2 * count + 2] == crc(body), "a false CRC"


def _number(data, kind, little):
    words = [data[at:at + 2] for at in range(0, len(data), 2)]
    data = b"".join(reversed(words) if little else words)
    code = {"u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "f32": ">f", "u64": ">Q",
            "i64": ">q"}[kind]
    return struct.unpack(code, data)[0]


def _check_decoded(data, kind, exponent, little, found):
    number = _number(data, kind, little)
    if kind == "f32" and (number != number or abs(number) >= 2 ** 40):
        assert found is None, "a number where there is none"
        return
    value = Decimal(number).scaleb(exponent) if number else Decimal(0)
    assert abs(Decimal(found) - value) <= Decimal("0.5000000001"), (kind, number, exponent, found)


def gate(data):
    """A meter's registers, reply after reply: what is believed must be possible."""
    rules = Gate(_P_MAX_W, _STEP_MWH, rollover_mwh=10 ** 11 if data[:1] > b"\x7f" else 0)
    reading = Reading(1)
    now_ms = 0
    before = None
    for at in range(1, len(data) - 11, 12):
        kind = _KINDS[data[at] % len(_KINDS)]
        exponent = data[at + 1] % 19 - 9
        little = bool(data[at + 2] & 1)
        now_ms += data[at + 3] << (data[at + 2] >> 4)
        length = 2 * WORDS[kind]
        piece = data[at + 4:at + 4 + length]
        found = decode(data, at + 4, kind, exponent, little)
        _check_decoded(piece, kind, exponent, little, found)
        reading.quality, reading.reason = "G", ""
        reading.voltages_mv[0] = decode(data, at + 8, "u16", 2)
        reading.import_mwh, reading.mono_ms = found, now_ms
        if not rules.judge(reading):
            assert reading.quality != "G" and reading.reason, "refused without a word"
            continue
        assert found is not None and found >= 0 and reading.quality == "G"
        if before and not rules.event:
            old_mwh, old_ms = before
            most = (_P_MAX_W * (now_ms - old_ms) / 3600 + 1
                    + max(_STEP_MWH, (found >> 23) + 1))
            assert 0 <= found - old_mwh <= most, "a step that cannot be"
        before = found, now_ms


_VALUES = (None, True, False, 0, 1, 2, -1, 9600, 70001, 1.0, 9600.0, 1.5, float("nan"), 2 ** 70,
           "", "N", "x", "_x", "a b", "a\nb", "\u00e9", "\ud800", "x" * 400, [], [1, 2], [None],
           {}, {"seq": 3}, {"seq": 1.0}, [{"seq": 5}], [1] * 65)
_NAMES = ("", "k", "cum", "sel", "bad", "seq", "id", "meter", "unit", "baud", "stop", "a\nb", "x")


def changed(whole, data):
    """`whole`, a JSON value, as text with some of it replaced as `data` says: what mutation of
    bytes hardly reaches. Two bytes are one change."""
    whole = json.loads(json.dumps(whole))
    for at in range(0, min(len(data) - 1, 12), 2):
        place = whole
        where = data[at]
        names = sorted(place)
        name = names[where % len(names)] if names and where < 0xE0 else _NAMES[where % len(_NAMES)]
        if isinstance(place.get(name), dict) and where & 1:
            place = place[name]
            names = sorted(place)
            name = (names[data[at + 1] % len(names)] if names and where < 0xC0
                    else _NAMES[data[at + 1] % len(_NAMES)])
        value = _VALUES[(data[at] * 7 + data[at + 1]) % len(_VALUES)]
        place[name] = json.loads(json.dumps(value))
    text = json.dumps(whole)
    if data and data[-1] > 0xF0:  # nested deep
        text = text.replace("null", "[" * 6000 + "]" * 6000)
    return text


def ack(data):
    """The backend's acknowledgement."""
    if data[:1] == b"\x01":
        data = changed(_ACK, data[1:]).encode()
    try:
        cum, sel, bad = parse_ack(data, KEY_ID, HIGHEST)
    except (ValueError, RuntimeError):  # RuntimeError: nested too deep; so caught by the caller
        return
    for seq in [cum, *sel, *bad]:
        assert type(seq) is int and 0 <= seq <= HIGHEST, seq
    told = json.loads(data)
    assert told["k"] == KEY_ID and told["cum"] == cum, "another acknowledgement"


def configuration(data):
    """The configuration: whole and within its limits, or ConfigError in one line."""
    if data[:1] == b"\x01":
        text = changed(_CONFIG, data[1:])
    else:
        text = data.decode("utf-8", "replace")
    try:
        found = config.parse(text)
    except config.ConfigError as error:
        assert str(error) and "\n" not in str(error), "not one line"
        return
    for section, rows in config.FIELDS.items():
        for name, (kind, low, high, _) in rows.items():
            value = (found[section] if section else found)[name]
            if kind == "int":
                assert type(value) is int and low <= value <= high, name
            elif isinstance(kind, tuple):
                assert value in kind and type(value) is type(kind[0]), name
            elif kind == "bool":
                assert type(value) is bool, name
            elif value is not None:
                assert low <= len(value) <= high and value.isascii() and value.isprintable(), name
    again = config.parse(json.dumps(found))
    assert again == found, "not the same when read again"


def ocmf(data):
    """A signed record's text, and a public key."""
    text = data.decode("utf-8", "surrogateescape" if data[:1] == b"\x00" else "replace")
    try:
        signed, payload, section = parse.split(text)
        assert isinstance(payload, dict) and isinstance(section, dict)
        assert signed == text.split("|")[1].encode()
        parse.check_signature(signed, section, SPKI)
    except parse.RecordError as error:
        assert str(error)
    try:
        parse.parse_key(data)
        parse.parse_key(text)
    except parse.KeyFormatError as error:
        assert str(error)


SPKI = binascii.unhexlify(
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299")

TARGETS = {"modbus": modbus, "gate": gate, "ack": ack, "config": configuration, "ocmf": ocmf}
