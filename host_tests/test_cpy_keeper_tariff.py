"""Keeper, split and tariff together: too many modules at once for the small heap of the tests."""

import pytest

from fakes import keeper_device
from fakes.keeper_device import PILOT_A, PILOT_C, Device
from fakes.world import FakeBoard

_MORNING_MS = 1_790_056_800_000  # 2026-09-22 06:00 UTC
_TARIFF = {"currency": "EUR", "zone": "UTC0", "windows": [
    {"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 4000},
    {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2000}]}


@pytest.fixture(autouse=True)
def _tariff(monkeypatch):
    monkeypatch.setitem(keeper_device._CONFIG, "tariff", _TARIFF)


def _device(board, unix_ms, quality="S", register_mwh=1_000_000):
    return Device(board, unix_ms, register_mwh, quality)


def test_a_session_over_a_change_of_the_tariff():
    device = _device(FakeBoard(), _MORNING_MS - 63_000)
    device.run(2000, PILOT_A, 0)
    device.run(61000, PILOT_C, 36000)
    device.run(60000, PILOT_C, 36000)
    device.run(3000, PILOT_A, 0)
    by_name = dict(device.each())
    assert by_name["open"]["wname"] == "night"
    change = by_name["tariff"]
    assert (change["wname"], change["t_ms"], change["t_q"]) == ("day", _MORNING_MS, "S")
    close = by_name["close"]
    assert close["split"] == 1
    assert sum(close["by"].values()) == close["energy_mwh"]
    assert abs(close["by"]["night"] - 610_000) <= 10_000
    by = close["by"]
    assert close["cost"] == (by["night"] * 20 + by["day"] * 40 + 500_000) // 10 ** 6
    text = by_name["complete"]["ocmf"]
    assert [part[:1] for part in text.split('"TX":"')[1:]] == ["B", "T", "E"]
    assert "2026-09-22T06:00:00,000+0000 S" in text


def test_a_cut_after_a_change_and_one_over_it():
    for before_s, after_s, off_s, why in ((60, 60, 30, ""),
                                          (60, 0, 40, "change not read in time")):
        board = FakeBoard()
        device = _device(board, _MORNING_MS - before_s * 1000 - 2000)
        device.run(2000, PILOT_A, 0)
        device.run((before_s + after_s - (0 if after_s else 20)) * 1000, PILOT_C, 36000)
        now_ms, register_mwh = device.clock.now()[0], device.meter.register_mwh
        device.keeper.follow()
        device = _device(board, now_ms + off_s * 1000, "S", register_mwh + 10_000 * off_s)
        device.run(60000, PILOT_C, 36000)
        device.run(3000, PILOT_A, 0)
        by_name = dict(device.each())
        assert "resume" in by_name
        close = by_name["close"]
        assert close["why"] == why
        assert sum(close["by"].values()) == close["energy_mwh"] - close["gap_mwh"]
        assert close["gap_mwh"] >= 10_000 * off_s
        assert [name for name in device.names() if name == "tariff"] == ["tariff"]
        assert '"TX":"T"' in by_name["complete"]["ocmf"]
