"""What stands in the device's records, from its configuration to the verifier: every field, the
lowest version that defines them, every TX letter, and that the longest ones have room."""

import json
import os
from types import SimpleNamespace

import pytest

from evmeter.app import App
from evmeter.ledger import ledger, ocmf
from evmeter.ledger.signer import SoftwareSigner
from evmeter.system import config
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import check_all
from fakes import keeper_device
from fakes.keeper_device import PILOT_A, PILOT_C, Device
from fakes.world import FakeBoard

_T0 = 1_800_000_000_000
_BASE = {"id": "charger-0000000000017", "meter": {"profile": "x", "p_max_w": 1000},
         "mqtt": {"host": "h"}}
_METER = {"make": "Eastron", "model": "SDM72D-M-2", "serial": "21034567", "firmware": "0205"}
_LONG_METER = {"make": "m" * 40, "model": "m" * 40, "serial": "s" * 32, "firmware": "f" * 32}
_RFID = {"IS": True, "IL": "VERIFIED", "IF": ["RFID_RELATED"], "IT": "ISO14443",
         "ID": "1F2D3A4F5506C7"}
_LONG_USER = {"IS": True, "IL": "CERTIFIED", "IT": "CARD_TXN_NR", "ID": "|" * 40,
              "IF": ["RFID_RELATED", "OCPP_CERTIFIED", "ISO15118_NONE", "PLMN_NONE"]}
_LOSS = {"resistance": 100000, "unit": "mOhm", "name": "n" * 20, "id": 9999}
_PLACE = {"evse_id": "DE*ABC*E1234567890*1", "controller_firmware": "1.2.3-build7"}
_LONG = {"evse_id": "e" * 37, "controller_firmware": "c" * 25, "tariff_text": "t" * 250,
         "cable_loss": _LOSS}


def _fields(more, meter, user=None):
    """What App puts into every record with this configuration and this meter."""
    settings = config.parse(json.dumps({**_BASE, "id": _BASE["id"][:20], **more}))
    poll = SimpleNamespace(step_mwh=1000, serial_source="meter", **meter)
    fields, step_mwh, source = App.identity(SimpleNamespace(config=settings, poll=poll))
    assert (step_mwh, source) == (1000, "meter")
    return {**fields, **(user or {})}


def _readings(letters):
    return [(_T0 + at * 1000, "S", tx, 16777217000 + 1000 * at, "", "G")
            for at, tx in enumerate(letters)]


def _payload(kind, letters, fields, *vendor):
    return ocmf.payload(kind, fields, 123456, 1000, _readings(letters), [
        ("ZP", "0" * 32), ("ZS", "%s-123456" % fields["GS"]), ("ZQ", "meter"), *vendor])


_VENDOR = (("ZB", 1), ("ZW", 1), ("ZG", 123456789))


@pytest.mark.parametrize(("version", "more", "meter", "expected"), [
    ("1.0", {}, {**_METER, "firmware": None}, {"MF": None, "CI": None, "CT": None}),
    ("1.0", {}, _METER, {"MF": "0205", "GI": "evmeter", "GS": "charger-000000000001", "MV":
                         "Eastron", "MM": "SDM72D-M-2", "MS": "21034567"}),
    ("1.0", {"evse_id": "DE*1"}, _METER, {"CT": "EVSEID", "CI": "DE*1"}),
    ("1.0", {"charge_box_id": "BOX-7 2"}, _METER, {"CT": "CBIDC", "CI": "BOX-7 2"}),
    ("1.1", {"tariff_text": "0.40 EUR/kWh"}, _METER, {"TT": "0.40 EUR/kWh"}),
    ("1.2", {"cable_loss": {"resistance": 3}}, _METER, {"LC": {"LI": 0, "LR": 3, "LU": "mOhm"}}),
    ("1.2", {"cable_loss": _LOSS, "tariff_text": "x"}, _METER,
     {"LC": {"LN": "n" * 20, "LI": 9999, "LR": 100000, "LU": "mOhm"}, "TT": "x"}),
    ("1.3", {"controller_firmware": "2.0"}, _METER, {"CF": "2.0"}),
    ("1.3", {**_LONG}, _METER, {"CF": "c" * 25, "TT": "t" * 250}),
])
def test_fields_from_the_configuration_and_the_version_that_defines_them(
        version, more, meter, expected):
    fields = _fields(more, meter)
    found = json.loads(_payload("complete", "BE", fields, *_VENDOR))
    assert found["FV"] == version
    assert {name: found.get(name) for name in expected} == expected
    signer = SoftwareSigner(bytes(range(7, 39)), os.urandom)
    for kind, letters in (("begin", "B"), ("complete", "BTE"), ("tariff", "TT")):
        text = _payload(kind, letters, fields).join(
            ocmf.envelope(b"\x30\x06\x02\x01\x01\x02\x01\x01"))
        verdict = check_record(text, signer.spki_hex())
        assert [reason for reason in verdict.reasons if "signature" not in reason] == []
        assert not any("does not define" in note for note in verdict.notes)


@pytest.mark.parametrize("user", [None, _RFID])
def test_eight_changes_of_the_tariff_have_room(user):
    fields = _fields(_PLACE, _METER, user)
    _payload("complete", "B" + "T" * 8 + "E", fields, *_VENDOR)


def test_the_longest_fields_that_can_be_configured_have_room():
    fields = _fields(_LONG, _LONG_METER, _LONG_USER)
    _payload("begin", "B", fields)
    _payload("complete", "BE", fields, *_VENDOR, ("ZT", 32))
    _payload("tariff", "T", fields)
    with pytest.raises(ocmf.TooLong):
        _payload("tariff", "T" * 6, fields)


def test_a_tariff_record_takes_as_many_changes_as_have_room(monkeypatch):
    windows = [{"name": "ab"[minute % 2], "from": "06:%02d" % minute,
                "to": "06:%02d" % (minute + 1), "centiminor_per_kwh": 1000 * (1 + minute % 2)}
               for minute in range(15)]
    windows.append({"name": "night", "from": "06:15", "to": "06:00", "centiminor_per_kwh": 500})
    monkeypatch.setitem(keeper_device._CONFIG, "tariff",
                        {"currency": "EUR", "zone": "UTC0", "windows": windows})
    fields = {**_fields(_LONG, _LONG_METER), "GS": "demo-0001"}
    monkeypatch.setattr(Device, "_identity", lambda self: (dict(fields), 1000, "meter"))
    signer = SoftwareSigner(bytes(range(7, 39)), os.urandom)
    monkeypatch.setattr(keeper_device, "FakeSigner", lambda: signer)
    device = Device(FakeBoard(), 1_790_056_770_000, 1_000_000, "S")
    user = {name: _LONG_USER[name] for name in ("IL", "IT", "ID", "IF")}
    device.run(1000, PILOT_A)
    device.live(((1000, None, 0, lambda d: d.also(d.keeper.order("user", user))),))
    device.run(13 * 60_000, PILOT_C, 36000)
    device.run(20_000, PILOT_A)
    texts = [message["ocmf"] for _, message in device.messages() if "ocmf" in message]
    assert all(len(text) <= 1875 for text in texts)
    verdicts = [check_record(text, signer.spki_hex()) for text in texts]
    report = check_all(verdicts)
    assert report.ok, report
    assert [len(each.readings) for each in verdicts if each.kind == "tariff"][0] < 6


_FAULT = (-12000, -12000, False)


@pytest.mark.parametrize(("letter", "rows"), [
    ("E", ((1000, PILOT_A),)),
    ("L", (("stop", "local"), (1000, PILOT_A))),
    ("R", (("stop", "remote"), (1000, PILOT_A))),
    ("A", ((905_000, _FAULT),)),
    ("P", ("cut", (1000, PILOT_A))),
])
def test_every_letter_that_ends_a_session_is_reached(letter, rows):
    board = FakeBoard()
    device = Device(board)
    device.run(1000, PILOT_A)
    device.run(60_000, PILOT_C, 7200)
    for row in rows:
        if row == "cut":
            board.cut_power()
            device = Device(board, keeper_device.START_UNIX_MS + 900_000,
                            device.meter.register_mwh)
        elif row[0] == "stop":
            order = device.keeper.order("stop", {"by": row[1]})
            device.live(((1000, None, 0, lambda d, order=order: d.also(order)),))
        else:
            device.run(*row)
    by_name = dict(device.each())
    readings = json.loads(by_name["complete"]["ocmf"].split("|")[1])["RD"]
    assert [reading["TX"] for reading in readings] == ["B", letter]
    assert by_name["close"]["tx"] == letter
    assert all((reading["ST"], reading["EF"]) == ("G", "") for reading in readings)


def test_without_a_serial_number_no_session_begins_and_it_is_said_why():
    device = Device(FakeBoard(), serial="")
    device.run(1000, PILOT_A)
    device.run(5000, PILOT_C, 7200)
    assert "begin" not in device.names()
    assert device.keeper.refused == "no serial number: configure meter.serial"


@pytest.mark.parametrize("text", [
    "", '"', "\\", '\\"', '\\\\"', "\\u00e4", 'x"' * 700, "a\\" * 900, '{"ID":"\\u007c\\""}'])
def test_a_record_stands_in_its_message_as_it_was_signed(text):
    message = {"v": 1, "seq": 7, "sid": "cp-000001"}
    payload = json.dumps(message).encode()
    parts = text.join(ocmf.envelope(b"\x30\x06\x02\x01\x01\x02\x01\x01"))
    whole = b"".join(ledger._with_record(payload, ("OCMF|", text, parts[5 + len(text):])))
    assert json.loads(whole) == {**message, "ocmf": parts}
