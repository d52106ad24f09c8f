"""Sessions as reports see them, from what the firmware's ledger and keeper really write."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from evmeter_tools.backend import messages
from evmeter_tools.backend.store import Entry, Store
from evmeter_tools.export.nevi import nevi
from evmeter_tools.insight import uptime
from evmeter_tools.insight.facts import device_facts, load
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.reports import REPORTS, View, report
from evmeter_tools.insight.session import from_row
from evmeter_tools.sample.device import SampleDevice
from fakes import keeper_device
from fakes.keeper_device import PILOT_A, PILOT_B, PILOT_C, Device
from fakes.world import FakeBoard, FakeReading

BEGIN_MS = 1_790_056_800_000  # 2026-09-22 06:00 UTC, 08:00 in Berlin
TARIFF = {"currency": "EUR", "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "windows": [
    {"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 4000},
    {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2000}]}
HOUR_S = 3600
USER = {"IS": True, "IL": "HEARSAY", "IF": ["RFID_PLAIN"], "IT": "ISO14443", "ID": "04AABBCC"}


def facts_of(device, change=None, until_ms=None):
    """DeviceFacts of a SampleDevice; `change(entries)` alters what is stored."""
    entries = device.entries()
    rows = [SimpleNamespace(received_at=0, **vars(entry)) for entry in entries]
    if change:
        rows = change(rows) or rows
    return device_facts(device.name, rows, device.keys, until_ms)


def phases(session):
    return [(phase.name, (phase.stop_ms - phase.start_ms) // 1000) for phase in session.phases]


def test_a_session_with_everything_told():
    device = SampleDevice("d-1", BEGIN_MS, tariff=TARIFF)
    device.run(600, 12).plug(USER).run(60).charge(2 * HOUR_S, 11000)
    device.phase("paused_by_charger", 300).charge(HOUR_S, 5000)
    device.phase("finished_estimated", 1200).unplug("L")
    own = facts_of(device)
    session, = own.sessions
    assert (session.state, session.ok, session.billable, session.why_not) == (
        "complete", True, True, ())
    assert (session.start_ms, session.stop_ms) == (
        BEGIN_MS + 600_000, BEGIN_MS + 600_000 + (60 + 3 * HOUR_S + 300 + 1200) * 1000)
    assert session.energy_mwh == 27_000_000
    assert session.duration_s == 60 + 3 * HOUR_S + 1500
    assert phases(session) == [("waiting_for_car", 60), ("charging", 7200),
                               ("paused_by_charger", 300), ("charging", 3600),
                               ("finished_estimated", 1200)]
    assert (session.charging_ms, session.idle_ms) == (3 * HOUR_S * 1000, 1_200_000)
    assert session.user == {"IT": "ISO14443", "ID": "04AABBCC", "IL": "HEARSAY",
                            "IF": ["RFID_PLAIN"]}
    assert (session.ended_by, session.outcome, session.quality) == ("L", "success", "S")
    assert session.segments == [(session.start_ms, 27_000_000)]
    assert session.by_tariff == {"day": 27_000_000} and session.split_ok
    assert session.cost_info == 1080
    assert own.outside == [(session.start_ms, 2000)] and own.missing == 0
    assert sum(each.energy_mwh for each in own.intervals) == 27_002_000
    row = session.row()
    assert row["energy_mwh"] == 27_000_000 and row["idle_s"] == 1200
    assert all(value is None or isinstance(value, (int, str)) for value in row.values())


def test_segments_are_from_signed_readings_and_add_up():
    device = SampleDevice("d-1", BEGIN_MS, tariff=TARIFF)
    device.run(13 * HOUR_S).plug().charge(4 * HOUR_S, 1000)  # 21:00 to 01:00
    session, = facts_of(device.unplug()).sessions
    change_ms = BEGIN_MS + 14 * HOUR_S * 1000
    assert session.segments == [(session.start_ms, 1_000_000), (change_ms, 3_000_000)]
    assert sum(mwh for _, mwh in session.segments) == session.energy_mwh
    assert session.by_tariff == {"day": 1_000_000, "night": 3_000_000}


@pytest.mark.parametrize(("off_s", "power_w", "gap_mwh", "outcome"), [
    (100, 3600, 100_000, "success"), (100, 0, 0, "success"),
    (HOUR_S, 2000, 2_000_000, "power_fail")])
def test_gap_energy_is_told_apart_and_the_device_was_off(off_s, power_w, gap_mwh, outcome):
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(900, 4000)
    device.cut(off_s, power_w)
    if outcome == "success":
        device.charge(900, 4000).unplug()
    session, = facts_of(device).sessions
    assert (session.gap_mwh, session.outcome) == (gap_mwh, outcome)
    assert session.energy_mwh == (2 if outcome == "success" else 1) * 1_000_000 + gap_mwh
    assert dict(phases(session))["off"] == off_s
    assert session.charging_ms == (1_800_000 if outcome == "success" else 900_000)
    assert sum(mwh for _, mwh in session.gaps) == (gap_mwh if outcome == "success" else 0)


def test_the_device_was_off_from_when_it_was_last_heard_of():
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(4000, 4000)  # intervals up to 3600
    device.cut(10 * HOUR_S)
    session, = facts_of(device).sessions
    assert phases(session) == [("charging", 3600), ("off", 400 + 10 * HOUR_S)]


def test_times_before_the_clock_was_set_are_corrected():
    device = SampleDevice("d-1", BEGIN_MS - 10**9, quality="U")
    device.run(60).plug().charge(600, 6000).set_clock(10**9)
    device.charge(600, 6000).unplug()
    session, = facts_of(device).sessions
    assert session.start.quality == "U" and session.stop.quality == "S"
    assert session.start.unix_ms == BEGIN_MS - 10**9 + 60_000
    assert abs(session.start_ms - (BEGIN_MS + 60_000)) <= session.start.true.uncertainty_ms
    assert session.stop_ms == BEGIN_MS + 1_260_000 and session.start.known
    assert session.charging_ms == pytest.approx(1_200_000, abs=1000)
    device = SampleDevice("d-2", BEGIN_MS, quality="U").plug().charge(600).unplug()
    never, = facts_of(device).sessions
    assert not never.start.known and never.ok


def test_an_open_session_goes_to_its_last_word_or_to_now():
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(1000, 4000)
    session, = facts_of(device).sessions
    assert (session.state, session.outcome, session.billable) == ("open", "open", False)
    assert session.why_not == ("not ended yet",) and session.energy_mwh is None
    assert session.occupied_ms == 0  # the last event is of its first second
    session, = facts_of(device, until_ms=BEGIN_MS + 500_000).sessions
    assert session.charging_ms == 500_000


def _without(kind):
    return lambda rows: [row for row in rows if row.kind != kind]


def _forged(rows):
    for row in rows:
        if row.kind == "complete":
            row.payload = row.payload.replace(b"TX\\\":\\\"E", b"TX\\\":\\\"L")
            assert b"TX\\\":\\\"L" in row.payload


def _refused(rows):
    for row in rows:
        if row.kind == "complete":
            row.verdict, row.why = "bad", "the record is of another session"


@pytest.mark.parametrize(("change", "state", "word"), [
    (_without("begin"), "complete", ""),  # a complete record proves a session by itself
    (_without("complete"), "open", "not ended"),
    (_forged, "broken", "signature"), (_refused, "broken", "another session"),
    (lambda rows: [row for row in rows if row.stream != "rec"], "broken", "no record"),
    (lambda rows: [row for row in rows if row.stream == "rec"], "complete", ""),
])
def test_what_is_missing_or_forged_is_no_billable_session(change, state, word):
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(900, 4000).unplug()
    session, = facts_of(device, change).sessions
    assert session.state == state
    assert word in "; ".join(session.why_not)
    assert session.billable is (state == "complete")
    assert session.energy_mwh == (1_000_000 if state == "complete" else None)


def test_below_100_steps_nothing_is_billed():
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(60, 5900).unplug()
    session, = facts_of(device).sessions
    assert session.ok and not session.billable and session.energy_mwh == 98_000
    assert session.why_not == ("marked not billable by the device",)


def test_missing_numbers_are_counted_once_over_a_change_of_keys():
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(3600, 4000).unplug()
    assert facts_of(device, lambda rows: rows[:3] + rows[5:]).missing == 2
    rows = []
    for seq, key_id in ((1, "aaaaaaaa"), (2, "aaaaaaaa"), (4, "bbbbbbbb")):
        kind = "key_change" if seq == 2 else "x"
        body = json.dumps({"new_k": "bbbbbbbb", "ts": 1}).encode()
        entry = Entry("d", key_id, seq, "log" if seq == 2 else "evt", "", kind, body)
        rows.append(SimpleNamespace(received_at=0, **vars(entry)))
    assert device_facts("d", rows, {}).missing == 1


def test_a_change_of_the_key_inside_a_session():
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(900, 4000)
    device.change_key(2).charge(900, 4000).unplug()
    own = facts_of(device)
    session, = own.sessions
    assert session.billable and session.energy_mwh == 2_000_000 and own.missing == 0
    assert len({record.key for record in session.records}) == 2
    session, = facts_of(device, _without("key_change")).sessions
    assert not session.ok and "key differs" in session.why_not[0]
    device.alarm("METER_LOST", True).change_key(3).run(60).alarm("METER_LOST", False, 0)
    assert [(code, off_s - on_s) for code, on_s, off_s in facts_of(device).alarms] == [
        ("METER_LOST", 60)]


def test_alarms_tell_of_outages_and_refused_attempts():
    device = SampleDevice("d-1", BEGIN_MS)
    begin_s = BEGIN_MS // 1000
    device.run(60).alarm("METER_LOST", True).run(600).alarm("METER_LOST", False)
    # three onsets in one event, over already; then one that a reboot ends, and one that stays
    device.run(60).alarm("SESSION_REFUSED", False, 3, begin_s + 700)
    device.run(60).alarm("KEY_MISSING", True).run(30).cut(10).run(10).alarm("CLOCK_LOST", True)
    device.alarm("SESSION_REFUSED", False, 1)
    own = facts_of(device)
    assert own.alarms == [
        ("METER_LOST", begin_s + 60, begin_s + 660),
        ("SESSION_REFUSED", begin_s + 700, begin_s + 720),
        ("KEY_MISSING", begin_s + 780, begin_s + 820),
        ("SESSION_REFUSED", begin_s + 830, begin_s + 830),
        ("CLOCK_LOST", begin_s + 830, None)]
    assert len(own.refused) == 4
    outages = uptime.out_of_order("d-1", own.alarms, begin_s + 1000)
    assert uptime.outage_s(outages, 0, 2**40) == (600 + 20 + 40, 0)
    view = View(LocalTime("UTC"), BEGIN_MS, BEGIN_MS + 10**7, {"d-1": 11_000_000})
    rows = {row["outcome"]: row for row in report("outcomes", {"d-1": own}, view).dicts()}
    assert rows["refused"]["attempts"] == 4
    assert report("reliability", {"d-1": own}, view).dicts()[0]["outages"] == 3
    spans = [("d-1", "offline", 0, 60_000), ("d-1", "charging", 60_000, 90_000),
             ("d-1", "fault", 90_000, None)]
    assert uptime.from_spans(spans, 100) == [
        uptime.Outage("d-1", 0, 60, "offline"), uptime.Outage("d-1", 90, 100, "fault")]


HOSTILE = [
    b"", b"[]", b"{", b'{"ts": "x"}', b'{"ev": "boot", "ts": 1, "out_mwh": "1"}',
    b'{"ev": "boot", "ts": 1%s}' % (b"0" * 40), b'{"ev": "boot", "ts": -5}', b'{"ts": 1e400}',
    b'{"ev": "resume", "ts": 5, "gap_mwh": [], "off_ms": {}}',
    b'{"ev": "close", "ts": 5, "by": [1], "dur_s": "x", "cost": 1.5, "cur": 5}',
    b'{"ev": "charging", "ts": 4294967295}', b'{"ev": {}, "ts": 1}',
    b'{"ts": 1, "t0": 900%s, "len": 900, "d_mwh": 1, "p_max_mw": 1}' % (b"0" * 30),
    b'{"ts": 1, "t0": 900, "len": 999999999999, "d_mwh": 1, "p_max_mw": 1}',
    b'{"ts": 1, "t0": 901, "len": 900, "d_mwh": 1, "p_max_mw": 1}',
    b'{"ts": 1, "t0": 900, "len": 0, "d_mwh": 1, "p_max_mw": 1}',
    b'{"ts": 1, "t0": 900, "len": 900, "d_mwh": 1%s, "p_max_mw": 1}' % (b"0" * 30),
    b'{"ts": 1, "t0": 900, "len": 900, "d_mwh": 1.5, "p_max_mw": true}',
    b'{"ev": "alarm", "ts": 9, "code": "METER_LOST", "act": true, "on_ts": 1%s}' % (b"0" * 30),
    b'{"ev": "alarm", "ts": 9, "code": {}, "act": "x", "on_ts": "y", "n": 1%s}' % (b"0" * 30),
]


def test_what_is_no_message_breaks_nothing():
    """Events and intervals are not signed: whoever has a device's log-in can send any."""
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(900, 4000).unplug()
    true = facts_of(device)

    def spoil(rows):
        more = [Entry("d-1", device.key_id, 10_000 + at, stream, sid, kind, payload)
                for sid in (rows[-1].sid, "", "another")
                for at, payload in enumerate(HOSTILE)
                for stream, kind in (("evt", "boot"), ("evt", "alarm"), ("ivl", "ivl"),
                                     ("log", "key_change"), ("rec", "complete"))
                if stream != "rec" or sid != rows[-1].sid]
        return rows + [SimpleNamespace(received_at=0, **vars(entry)) for entry in more]

    own = facts_of(device, spoil)
    session = next(session for session in own.sessions if session.sid == "d-1-000001")
    assert session.energy_mwh == 1_000_000 and session.billable
    assert session.stop_ms == true.sessions[0].stop_ms
    assert sum(phase.stop_ms - phase.start_ms for phase in session.phases) == session.occupied_ms
    assert own.intervals == true.intervals
    view = View(LocalTime("Europe/Berlin"), BEGIN_MS - 10**7, BEGIN_MS + 10**8,
                {"d-1": 11_000_000})
    for name in REPORTS:
        assert report(name, {"d-1": own}, view).csv()
    assert nevi({"d-1": own}, "2026Q3", LocalTime("UTC"))


def test_the_store_gives_the_same(tmp_path):
    device = SampleDevice("d-1", BEGIN_MS).plug().charge(900, 4000).unplug()
    store = Store(tmp_path / "db.sqlite")
    device.store(store)
    found = load(store)["d-1"].sessions[0]
    assert load(store, ["nobody"])["nobody"].sessions == []
    store.close()
    assert found.row() == facts_of(device).sessions[0].row()


def test_a_derived_row_gives_the_same_reports():
    devices = [
        SampleDevice("a", BEGIN_MS, tariff=TARIFF).run(13 * HOUR_S).plug(USER).charge(
            4 * HOUR_S, 9000).phase("finished_estimated", 2000).unplug().run(1000).plug(),
        SampleDevice("b", BEGIN_MS, tariff=TARIFF).plug().charge(900).cut(100, 900).phase(
            "fault", 30).charge(900).unplug("A").plug().charge(60).cut(HOUR_S),
        SampleDevice("c", BEGIN_MS - 10**9, quality="U").plug().charge(600).set_clock(10**9)
        .charge(600).unplug().plug().run(30).unplug()]
    facts = {device.name: facts_of(device) for device in devices}
    facts["d"] = facts_of(SampleDevice("d", BEGIN_MS).plug().charge(60).unplug(), _forged)
    kept = {name: replace(own, sessions=[
        from_row(json.loads(json.dumps(session.row()))) for session in own.sessions])
        for name, own in facts.items()}
    assert [session.row() for own in kept.values() for session in own.sessions] == [
        session.row() for own in facts.values() for session in own.sessions]
    view = View(LocalTime("Europe/Berlin"), BEGIN_MS - 10**7, BEGIN_MS + 2 * 10**8,
                dict.fromkeys(facts, 11_000_000))
    for name in REPORTS:
        assert report(name, kept, view).rows == report(name, facts, view).rows, name
    assert len(report("list", kept, view).rows) == 7


# -- the keeper itself --

@pytest.fixture
def signer(monkeypatch):
    sample = SampleDevice("demo-0001", BEGIN_MS)
    monkeypatch.setattr(keeper_device, "FakeSigner", lambda: sample._signer)
    monkeypatch.setattr(FakeReading, "power_mw", 12_000_000)
    return sample._signer


def _keeper_facts(device, signer):
    trusted = {("demo-0001", signer.key_id): signer.spki}
    rows = []
    for name, message in device.messages():
        stream = "rec" if "ocmf" in message else "evt"
        entry = messages.read("demo-0001", stream, json.dumps(message).encode(), trusted)
        assert entry.verdict == "ok", (name, entry.why)
        rows.append(SimpleNamespace(received_at=0, **vars(entry)))
    return device_facts("demo-0001", rows, {signer.key_id: signer.spki})


def test_the_keepers_own_messages_tell_the_same_story(signer):
    device = Device(FakeBoard(), BEGIN_MS, quality="S")
    device.run(2000, PILOT_A)
    device.run(30_000, PILOT_B)
    device.run(300_000, PILOT_C, 12_000)
    device.run(60_000, PILOT_B)
    device.run(5000, PILOT_A)
    own = _keeper_facts(device, signer)
    session, = own.sessions
    assert session.outcome == "success" and session.billable
    assert session.energy_mwh == 996_000  # 166 mWh each 50 ms
    told = phases(session)
    # that the car was finished is told 5 s later, and dated back over the pause
    assert [name for name, _ in told] == ["waiting_for_car", "charging", "finished_estimated"]
    # events are dated in whole seconds
    assert abs(session.charging_ms - 300_000) <= 2000
    assert abs(session.idle_ms - 60_000) <= 2000
    assert abs(session.occupied_ms - 390_000) <= 1000
    assert abs(session.duration_s - 390) <= 1
    assert sum(phase.stop_ms - phase.start_ms for phase in session.phases) == session.occupied_ms
    energy_mwh = sum(each.energy_mwh for each in own.sessions) + sum(
        mwh for _, mwh in own.outside)
    assert energy_mwh == device.balance()


def test_the_keepers_power_cut(signer):
    board = FakeBoard()
    device = Device(board, BEGIN_MS, quality="S")
    device.run(2000, PILOT_A)
    device.run(200_000, PILOT_C, 12_000)
    now_ms = device.clock.now()[0]
    board.cut_power()
    again = Device(board, now_ms + 60_000, device.meter.register_mwh + 50_000, "S")
    again.run(100_000, PILOT_C, 12_000)
    again.run(5000, PILOT_A)
    session, = _keeper_facts(again, signer).sessions
    close = dict(again.messages())["close"]
    assert session.gap_mwh == close["gap_mwh"] >= 50_000
    assert session.gaps and sum(mwh for _, mwh in session.gaps) == session.gap_mwh
    assert session.energy_mwh == close["energy_mwh"]
    off_s = dict(phases(session))["off"]
    assert 60 <= off_s <= 60 + 61  # back to the checkpoint
    assert session.outcome == "success"
