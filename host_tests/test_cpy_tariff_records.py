"""Sessions with more changes of the tariff than a record has room for, before the verifier."""

import os

import pytest

from evmeter.ledger.signer import SoftwareSigner
from evmeter_tools.verify.check import check_record
from evmeter_tools.verify.device import check_all
from fakes import keeper_device
from fakes.keeper_device import PILOT_A, PILOT_C, Device
from fakes.world import FakeBoard

_MORNING_MS = 1_790_056_800_000  # 2026-09-22 06:00 UTC
_MINUTES = 15
_USER = {"IL": "HEARSAY", "IT": "CENTRAL", "ID": "x" * 40, "IF": ["OCPP_RS_TLS", "RFID_RELATED"]}


@pytest.fixture(autouse=True)
def _each_minute_another_tariff(monkeypatch):
    windows = [{"name": "ab"[minute % 2], "from": "06:%02d" % minute,
                "to": "06:%02d" % (minute + 1), "centiminor_per_kwh": 1000 * (1 + minute % 2)}
               for minute in range(_MINUTES)]
    windows.append({"name": "night", "from": "06:%02d" % _MINUTES, "to": "06:00",
                    "centiminor_per_kwh": 500})
    monkeypatch.setitem(keeper_device._CONFIG, "tariff",
                        {"currency": "EUR", "zone": "UTC0", "windows": windows})
    signer = SoftwareSigner(bytes(range(7, 39)), os.urandom)
    monkeypatch.setattr(keeper_device, "FakeSigner", lambda: signer)
    return signer


def _device(board, unix_ms, register_mwh=1_000_000):
    return Device(board, unix_ms, register_mwh, "S")


def _verdicts(device, signer):
    return [check_record(message["ocmf"], signer.spki_hex())
            for _, message in device.messages() if "ocmf" in message]


@pytest.mark.parametrize(("minutes", "user", "records"), [
    (5, None, ["begin", "complete"]),
    (7, None, ["begin", "complete"]),  # with the change into the first minute, 8
    (15, None, ["begin", "tariff", "tariff", "tariff", "complete"]),
    (11, _USER, ["begin", "tariff", "tariff", "complete"]),
])
def test_what_does_not_fit_goes_into_tariff_records(
        _each_minute_another_tariff, minutes, user, records):
    device = _device(FakeBoard(), _MORNING_MS - 30_000)
    device.run(1000, PILOT_A)
    device.run(29_000 + 500, PILOT_C, 36000)
    if user:
        device.live(((1000, None, 0, lambda d: d.also(d.keeper.order("user", user))),))
    device.run(minutes * 60_000 + 20_000, PILOT_C, 36000)
    device.run(15_000, PILOT_A)  # signing takes its turns
    verdicts = _verdicts(device, _each_minute_another_tariff)
    assert [verdict.kind for verdict in verdicts] == records
    assert all(verdict.ok for verdict in verdicts), [verdict.reasons for verdict in verdicts]
    report = check_all(verdicts)
    assert report.ok, report
    changes = [reading for verdict in verdicts for reading in verdict.readings
               if reading.tx == "T"]
    assert len(changes) == minutes + 1
    close = dict(device.messages())["close"]
    assert close["split"] == 1 and sum(close["by"].values()) == close["energy_mwh"]
    complete = verdicts[-1].payload
    assert complete.get("ZT", 0) == (len(changes) if "tariff" in records else 0)
    assert complete["ZW"] == 1


def test_a_cut_between_the_tariff_records_writes_none_twice(_each_minute_another_tariff):
    for after in range(1, 12):
        board = FakeBoard()
        device = _device(board, _MORNING_MS - 30_000)
        device.run(1000, PILOT_A)
        device.run(13 * 60_000 + 40_000, PILOT_C, 36000)
        now_ms = device.clock.now()[0]

        def cut(device, left=after):
            device.board.nvs._power.left = device.board.store._power.left = left
        device.live(((10_000, PILOT_A, 0, cut),))
        board.nvs._power.left = board.store._power.left = None
        board.cut_power()
        again = _device(board, now_ms + 10_000, device.meter.register_mwh)
        again.run(15_000, PILOT_A)
        verdicts = _verdicts(again, _each_minute_another_tariff)
        report = check_all(verdicts)
        assert report.ok, (after, report)
        changes = [reading.time for verdict in verdicts for reading in verdict.readings
                   if reading.tx == "T"]
        assert len(changes) == len(set(changes)) == 14, (after, changes)
