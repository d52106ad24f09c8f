"""The backend dates what a device recorded before it knew the time."""

import asyncio
import json

import pytest

from evmeter.system.clock import Clock
from evmeter_tools.backend import messages
from evmeter_tools.backend.sessions import TrueTime, corrected_times, device_times
from evmeter_tools.backend.store import Store
from fakes.device import FakeDevice

FLOOR_MS = 1_795_478_400_000
NOW_MS = 1_800_000_000_000


class _Ticks:
    """The ticks of a device, and true time."""

    def __init__(self):
        self.now = 7

    def ticks_ms(self):
        return self.now

    def ticks_diff(self, end, start):
        return end - start


class _Device:
    """A clock of the firmware, and the messages that it dates."""

    def __init__(self):
        self.messages = []
        self.boot_ms = NOW_MS
        self.boots = 0
        self.boot()

    def boot(self):
        self.boots += 1
        self.ticks = _Ticks()
        self.clock = Clock(FLOOR_MS + self.boots * 1000, self.ticks)
        self.boot_ms += 10**8
        self.first_seq = len(self.messages) + 1

    def true_ms(self):
        return self.boot_ms + self.ticks.now

    def record(self, after_ms, stream="evt"):
        """Returns (sequence number, when it truly was)."""
        self.ticks.now += after_ms
        fields = {}
        asyncio.run(self._append(stream, "x", self.clock.mono_ms(), fields))
        return fields["seq"], self.true_ms()

    async def log(self, event, sid, mono_ms, fields):
        await self._append("log", event, mono_ms, fields)

    async def _append(self, stream, event, mono_ms, fields):
        fields.update(ev=event, seq=len(self.messages) + 1, tq=self.clock.quality,
                      ts=self.clock.unix_ms_at(mono_ms) // 1000)
        self.messages.append((stream, dict(fields)))

    def set(self, off_ms, quality, uncertainty_ms):
        self.clock.set(self.true_ms() + off_ms, quality, uncertainty_ms, source="sntp",
                       agreed=True)
        asyncio.run(self.clock.write_notes(self, "", self.boots, self.first_seq))


def test_records_of_u_are_dated_by_the_entry_of_their_boot():
    device = _Device()
    lost = device.record(1000)  # a boot that never knew the time
    device.boot()
    early = [device.record(ms) for ms in (500, 60000, 3600000)]
    device.set(0, "S", 40)
    late = device.record(1000)
    found = corrected_times(device.messages)
    assert sorted(found) == [seq for seq, _ in early]
    assert lost[0] not in found and late[0] not in found
    for seq, true_ms in early:
        assert abs(found[seq].unix_ms - true_ms) <= 500
        assert found[seq].quality == "S"
    # 100 ppm of the hour between them, half a second of rounding
    assert found[early[0][0]].uncertainty_ms == 40 + 366 + 500


def test_the_best_entry_of_a_boot_counts():
    device = _Device()
    seq, true_ms = device.record(500)
    device.set(86400000, "I", 2000)  # one server, a day wrong
    assert abs(corrected_times(device.messages)[seq].unix_ms - true_ms - 86400000) <= 500
    device.set(0, "S", 40)
    told = device.messages[-1][1]
    assert (told["ev"], told["q"], told["step_ms"], told["boot"]) == (
        "clock_bound", "S", -86400000, 1)
    found = corrected_times(device.messages)[seq]
    assert abs(found.unix_ms - true_ms) <= 500 and found.told_by == told["seq"]
    device.set(3600000, "I", 10)
    assert corrected_times(device.messages)[seq] == found


def test_a_clock_that_was_lost_and_found_again():
    device = _Device()
    device.set(30000, "I", 20)
    device.clock.limit(10, 20)
    device.set(30000, "I", 20)
    seq, true_ms = device.record(30000)
    assert device.messages[-1][1]["tq"] == "U"
    device.set(0, "S", 20)
    assert abs(corrected_times(device.messages)[seq].unix_ms - true_ms) <= 500


@pytest.mark.parametrize(("name", "value"), [
    ("unix_ms", "1"), ("mono_ms", None), ("seq0", 1.5), ("q", "U"), ("q", []), ("ev", "clock")])
def test_an_entry_that_is_none_is_not_used(name, value):
    device = _Device()
    device.record(500)
    device.set(0, "S", 40)
    device.messages[-1][1][name] = value
    assert corrected_times(device.messages) == {}


def test_only_signed_entries_of_the_store_count(tmp_path):
    device = FakeDevice()
    note = {"tq": "S", "boot": 1, "seq0": 1, "mono_ms": 9000, "unix_ms": NOW_MS, "q": "S",
            "unc_ms": 30, "step_ms": NOW_MS - 9000, "src": "sntp"}
    trusted = {(device.name, device.key_id): device.spki}
    sent = [("evt", device.event(1, tq="U", ts=4)),
            ("evt", device.event(2, "clock_bound", **note)),
            ("log", device.event(3, "clock_bound", **note)),
            ("log", device.log(4, "clock_bound", **note))]
    store = Store(tmp_path / "db.sqlite")
    try:
        for until, expected in ((3, {}), (4, {(device.key_id, 1): TrueTime(
                NOW_MS - 9000 + 4500, 30 + 500, "S", 4)})):
            store.add([messages.read(device.name, stream, payload, trusted)
                       for stream, payload in sent[:until]])
            assert device_times(store, device.name) == expected
        assert json.loads(store.rows(device.name)[0].payload)["ts"] == 4  # as it was signed
    finally:
        store.close()
