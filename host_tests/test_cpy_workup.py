"""What records are worked up into says the same as a look at all of them, figure for figure, in
whatever order and pieces they come; a filled database has the rows that its records come to."""

import json
import random
import sqlite3
from itertools import permutations

import pytest
import sqlalchemy as sql

from evmeter_tools.backend import listing, messages, migrations
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.live import Live
from evmeter_tools.backend.store import Store
from evmeter_tools.insight import workup
from evmeter_tools.insight.facts import load
from evmeter_tools.insight.held import held_facts
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.reports import REPORTS, View, report
from evmeter_tools.insight.workup import session_of, waiting, work_up
from evmeter_tools.sample import fill
from evmeter_tools.sample.device import SampleDevice
from evmeter_tools.web import fleet
from evmeter_tools.web.insight import WHOLE, Reports
from fakes.device import FakeDevice

_BEGIN_S = 1774656000  # 2026-03-28 00:00 UTC: Berlin's clock changes the night after
_DAY_S = 86400
_TARIFF = {"currency": "EUR", "zone": "CET-1CEST,M3.5.0,M10.5.0/3", "windows": [
    {"name": "day", "from": "06:00", "to": "22:00", "centiminor_per_kwh": 4000},
    {"name": "night", "from": "22:00", "to": "06:00", "centiminor_per_kwh": 2500}]}
_RATED_W = {"d-0": 11_000, "d-1": 22_000, "d-3": 7_000}
_FILLED = ("session_fact", "happening", "tally", "total")  # tables with records behind them


def _device(number, days=5):
    """A device with a bit of everything; each number has another life."""
    choose = random.Random(number)
    device = SampleDevice(
        "d-%d" % number, (_BEGIN_S + 97 * number) * 1000, secret=number + 1,
        tariff=_TARIFF if number % 2 == 0 else None, quality="U" if number == 1 else "S")
    end_ms = (_BEGIN_S + days * _DAY_S) * 1000
    sessions = 0
    while device.unix_ms < end_ms:
        device.run(choose.randrange(600, 20_000), choose.choice((0, 30)))
        if number == 1 and sessions == 2:
            device.set_clock(40_000)
        if number == 2 and sessions == 3:
            device.change_key(99)
        device.alarm(choose.choice(("METER_LOST", "OVERTEMP", "SESSION_REFUSED")), True,
                     sessions + 1)
        device.run(choose.randrange(60, 4000))
        device.alarm("METER_LOST", False, sessions + 1)
        device.plug().charge(choose.randrange(100, 9000), choose.choice((3700, 11_000)))
        if choose.random() < 0.5:
            device.cut(choose.choice((20, 400)), 2000)
        if device.sid:
            if choose.random() < 0.5:
                device.phase("finished_estimated", choose.randrange(10, 5000))
            if sessions != 4 or number:  # the last one may stay open
                device.unplug(choose.choice("EEA"))
            else:
                break
        else:
            device.run(1000).cut(3000)
        sessions += 1
    return device


@pytest.fixture(scope="module")
def devices():
    return [_device(number) for number in range(4)]


def _store(path, devices, mixed=0):
    store = Store(path)
    with store.engine.begin() as connection:
        for device in devices:
            for key, spki in device.keys.items():
                if key == next(iter(device.keys)):  # the others come by a signed change
                    store._enrol(connection, device.name, key, spki, None)
            connection.execute(sql.insert(t.chargers).values(
                device=device.name, site="s" if device.name != "d-1" else None,
                rated_w=_RATED_W.get(device.name, 0)))
        for name in ("s", "empty"):
            connection.execute(sql.insert(t.sites).values(id=name))
        connection.execute(sql.insert(t.exclusions).values(
            device="d-3", from_s=_BEGIN_S + 2 * _DAY_S, to_s=_BEGIN_S + 4 * _DAY_S,
            reason="utility", by="ann", at=1))
    if len(devices) > 3:
        live = Live(store)
        for device, hours in (("d-0", (1, 5)), ("d-3", (30, 60, 90)), ("d-1", (100,))):
            for number, hour in enumerate(hours):
                live.take([(device, "avail", b"offline" if number % 2 else b"online",
                            (_BEGIN_S + hour * 3600) * 1000)])
        live.take([("d-3", "tel", b'{"u_mv": [230000], "i_ma": [3]}', _BEGIN_S * 1000)])
    entries = [entry for device in devices for entry in device.entries()]
    choose = random.Random(mixed)
    if mixed:
        choose.shuffle(entries)
    while entries:
        count = choose.randrange(1, 200)
        store.add(entries[:count])
        entries = entries[count:]
        if choose.random() < 0.3:
            work_up(store, 0)  # one part of one device
    return store


def _same(store, wanted, zone, from_s, to_s, reports, **scope):
    local = LocalTime(zone)
    names = wanted or [device for device, _ in store.trusted()]
    rated = {name: _RATED_W.get(name, 0) * 1000 for name in names}
    view = View(local, from_s * 1000, to_s * 1000, rated)
    facts = load(store, sorted(set(names)), period_ms=(view.from_ms, view.to_ms))
    for name in REPORTS:
        asked = reports.wanted(name, zone, from_s * 1000, to_s * 1000, **scope)
        assert reports.waiting(asked) == 0
        expected = report(name, facts, view)
        found = (reports.whole(asked) if name in WHOLE else reports.part(asked, 100)[0])
        assert found.json() == expected.json(), (name, zone, from_s)
        assert "".join(reports.csv(asked)) == expected.csv(), name


@pytest.mark.parametrize("mixed", [0, 1, 2])
def test_reports_are_those_of_all_records(tmp_path, devices, mixed):
    store = _store(tmp_path / "x.sqlite", devices, mixed)
    work_up(store)
    reports = Reports(store)
    for zone, from_s, to_s in (
            ("Europe/Berlin", _BEGIN_S - _DAY_S, _BEGIN_S + 9 * _DAY_S),
            ("UTC", _BEGIN_S + _DAY_S, _BEGIN_S + 2 * _DAY_S),
            ("America/New_York", _BEGIN_S + 20 * 900, _BEGIN_S + 301 * 900),
            ("UTC", _BEGIN_S - 9 * _DAY_S, _BEGIN_S - 8 * _DAY_S)):
        _same(store, None, zone, from_s, to_s, reports)
    _same(store, ["d-2"], "Europe/Berlin", _BEGIN_S, _BEGIN_S + 9 * _DAY_S, reports, device="d-2")
    _same(store, ["d-0", "d-2", "d-3"], "UTC", _BEGIN_S, _BEGIN_S + 9 * _DAY_S, reports,
          site="s")
    for device in devices:
        full = {each.sid: each for each in load(store, [device.name])[device.name].sessions}
        for sid, session in full.items():
            assert session_of(store, device.name, sid) == session
    assert session_of(store, "d-0", "none") is None
    store.close()


def _tel(voltages_mv, currents_ma, power_mw=7_000_000):
    return json.dumps({"u_mv": voltages_mv, "i_ma": currents_ma, "p_mw": power_mw}).encode()


def test_telemetry_is_summed_up_by_day_phase_and_current(tmp_path):
    store = Store(tmp_path / "x.sqlite")
    store.enrol("d-0", "0" * 8, SampleDevice("d-0", 0).spki)
    live, at_ms = Live(store), _BEGIN_S * 1000
    batch = [("tel", _tel([231_000, 229_000], [100, 499])),
             ("tel", _tel([230_000, 230_000], [0, 0])),
             ("status", b'{"n": 1, "st": "charging", "cp": "C", "i_max_ma": 16000}'),
             ("tel", _tel([226_000, 225_000], [10_000, 15_900], 5_000_000)),
             ("tel", _tel([222_000, 224_000], [-12_000, 16_100], 6_000_000)),
             ("tel", _tel([200_000, 200_000], [8_000, 600])),  # below 80 % of the highest
             ("status", b'{"n": 2, "st": "suspended_ev", "cp": "B", "i_max_ma": 16000}'),
             ("tel", _tel([223_000, 226_000], [11_000, 16_000]))]
    for wrong in (_tel(230, 5), _tel([True], [1]), _tel([2**70], [1]), _tel([1] * 9, [1] * 9),
                  _tel(["230"], [1]), _tel([230_000], [2**60])):
        batch.append(("tel", wrong))
    for topic, payload in batch[:5]:
        live.take([("d-0", topic, payload, at_ms)])
    live.take([("d-0", topic, payload, at_ms + 1000) for topic, payload in batch[5:]])
    live.take([("d-0", *batch[0], at_ms + _DAY_S * 1000)])  # the next day is not asked for

    reports = Reports(store)
    asked = {name: reports.wanted(name, "UTC", at_ms, at_ms + _DAY_S * 1000)
             for name in ("voltage", "delivered")}
    # phase 1: idle (231+230)/2, highest band 12 A: 10, 11 and 12 A count; phase 2: 16 A, 15 A too
    assert reports.part(asked["voltage"], 9)[0].rows == [
        ("d-0", 1, 230_500, 223_667, 11_000, 6_833, 30, 621),
        ("d-0", 2, 229_500, 225_000, 16_000, 4_500, 20, 281)]
    # 5 + 6 + 7 kW of (451 + 446 + 400) V * 16 A
    assert reports.part(asked["delivered"], 9)[0].rows == [
        ("d-0", 3, 6_000_000, 6_917_333, 867)]
    facts = load(store, period_ms=(at_ms, at_ms + _DAY_S * 1000))
    view = View(LocalTime("UTC"), at_ms, at_ms + _DAY_S * 1000)
    for name, own in asked.items():
        assert report(name, facts, view).rows == reports.part(own, 9)[0].rows
    store.close()


def test_what_comes_later_is_in_the_next_report(tmp_path, devices):
    store = _store(tmp_path / "x.sqlite", devices[:1])
    reports = Reports(store)
    period = "UTC", _BEGIN_S, _BEGIN_S + 30 * _DAY_S
    _same(store, None, *period, reports)
    more = SampleDevice("d-9", (_BEGIN_S + 6 * _DAY_S) * 1000, secret=9)
    more.run(900).plug().charge(3600).unplug()
    more.store(store)
    assert waiting(store) == len(more.messages)
    _same(store, None, *period, reports)
    assert waiting(store) == 0 == waiting(store, ["d-9"])
    store.close()


def test_what_was_written_last_before_a_power_cut_may_come_last(tmp_path):
    device = SampleDevice("d-0", _BEGIN_S * 1000).plug()
    device.charge(3600, 7000).cut(400)
    streams = [(stream, json.loads(payload).get("ev")) for stream, payload in device.messages]
    before = streams.index(("evt", "boot"), 1) - 1
    assert streams[before] == ("ivl", None)  # which names no session
    store = _store(tmp_path / "x.sqlite", [])
    store.enrol("d-0", device.key_id, device.spki)
    entries = device.entries()
    last = entries.pop(before)
    for part, charging_s in ((entries, 2700), ([last], 3600)):
        store.add(part)
        assert work_up(store)
        (session,) = load(store)["d-0"].sessions
        (held,) = held_facts(store, ["d-0"], 0, 2**50)["d-0"].sessions
        assert held.phases == session.phases
        assert held.charging_ms == session.charging_ms == charging_s * 1000
    store.close()


def test_charger_by_charger_reports_go_on_where_a_part_ends(tmp_path, devices):
    store = _store(tmp_path / "x.sqlite", devices)
    reports = Reports(store)
    asked = reports.wanted("stations", "UTC", 0, 2_000_000_000_000 // 13)
    assert reports.count(asked) == 4
    names = []
    for offset in range(0, 6, 2):
        names += [row[0] for row in reports.part(asked, 2, offset)[0].rows]
    assert names == ["d-0", "d-1", "d-2", "d-3"]
    found, after = [], None
    while True:
        table, after = reports.part(asked, 3, after=after)
        found += [row[0] for row in table.rows]
        if after is None:
            break
    assert found == names
    empty = reports.wanted("stations", "UTC", 0, 2_000_000_000_000 // 13, site="empty")
    assert reports.count(empty) == 0 and reports.part(empty, 9)[0].rows == []
    assert len("".join(reports.csv(empty)).splitlines()) == 1
    store.close()


def _rows(store, name):
    table = t.meta.tables[name]
    columns = [column for column in table.columns if column.name not in ("id", "changed_at")]
    with store.engine.connect() as connection:
        return sorted(map(tuple, connection.execute(sql.select(*columns))), key=repr)


def test_a_filled_database_has_the_rows_that_its_records_come_to(tmp_path):
    fill.fill(tmp_path / "x.sqlite", 3, 40, _BEGIN_S, signed=True)
    store = Store(tmp_path / "x.sqlite")
    before = {name: _rows(store, name) for name in _FILLED}
    assert all(before.values())
    with store.engine.begin() as connection:
        for name in (*_FILLED, "load_day", "cover", "down"):
            connection.execute(sql.delete(t.meta.tables[name]))
        connection.execute(sql.insert(t.works).from_select(
            ["device", "key_id", "seq"], sql.select(t.records.c.device, t.records.c.key_id,
                                                    t.records.c.seq)))
    assert work_up(store)
    assert {name: _rows(store, name) for name in _FILLED} == before
    assert len(fleet.site_rows(store)) == 1
    store.close()


def test_a_database_of_before_is_worked_up_from_its_records(tmp_path, devices, monkeypatch):
    store = _store(tmp_path / "x.sqlite", devices[:2])
    with store.engine.begin() as connection:
        number = connection.execute(sql.select(sql.func.count()).select_from(t.records)).scalar()
        for name in ("work", "session_fact", "happening", "load_day", "cover", "alarm_span",
                     "down", "refusal", "tally", "total", "exclusion", "supply", "offer"):
            connection.execute(sql.text("DROP TABLE " + name))
        connection.execute(sql.text("UPDATE alembic_version SET version_num = '0003'"))
    store.close()
    store = Store(tmp_path / "x.sqlite")
    with store.engine.connect() as connection:
        assert migrations.current(connection) == migrations.HEAD
    assert waiting(store) == number
    work_up(store)
    _same(store, None, "UTC", _BEGIN_S, _BEGIN_S + 9 * _DAY_S, Reports(store))
    store.close()


def test_an_interval_across_the_periods_edges_counts_by_its_quarters(tmp_path):
    """Joined intervals, as a charger writes them that has little room left: 4 kWh from half past
    eleven at night on."""
    device = SampleDevice("d-0", _BEGIN_S * 1000)
    store = Store(tmp_path / "x.sqlite")
    device.store(store)
    month_s = _BEGIN_S + 4 * _DAY_S  # April begins in UTC
    _tell(store, device, *({"t0": at_s, "len": length_s, "d_mwh": mwh, "p_max_mw": 1, "q": "ok"}
                           for at_s, length_s, mwh in (
                               (month_s - 1800, 3600, 4_000_000), (month_s + 1800, 900, 500_000),
                               (month_s + 2700, 7200, 8_000_000))), stream="ivl")
    reports = Reports(store)
    for from_s, to_s, mwh, count in (
            (_BEGIN_S, month_s, 2_000_000, 2), (month_s, month_s + 1800, 2_000_000, 2),
            (month_s, month_s + _DAY_S, 10_500_000, 11),
            (month_s + 1800, month_s + 6300, 4_500_000, 5)):
        view = View(LocalTime("UTC"), from_s * 1000, to_s * 1000)
        for name in ("demand", "profile", "off_peak"):
            asked = reports.wanted(name, "UTC", view.from_ms, view.to_ms)
            found = report(name, load(store), view)
            assert found.json() == reports.whole(asked).json(), (name, from_s)
            if name == "demand":
                (row,) = found.dicts()
                assert (row["energy_mwh"], row["quarters"]) == (mwh, count)
    store.close()


# -- what a device says of itself beyond reason --

_FAR = 2**63
_STRANGE = (
    {"ts": None, "tq": "U", "ev": "x"}, {"ts": "abc", "tq": "U", "ev": "x"},
    {"ts": _FAR, "tq": "U", "ev": "x"}, {"ev": "x", "out_mwh": _FAR},
    {"ev": "boot", "out_mwh": -(2**70), "cause": "\ud800"},
    {"ev": "open", "sid": "d-0-000001", "cur": "\ud800\ud800", "tc": _FAR},
    {"ev": "close", "sid": "d-0-000001", "dur_s": _FAR, "cost": -_FAR,
     "by": {"day": _FAR, "\ud800": 7}},
    {"ev": "resume", "sid": "d-0-000001", "gap_mwh": _FAR, "off_ms": _FAR},
    {"ev": "alarm", "code": "\ud800", "n": _FAR, "on_ts": -_FAR, "act": True})


def _tell(store, device, *told, stream="evt"):
    """Store messages after all that the device has written."""
    seq = len(device.messages)
    for number, fields in enumerate(told, 1):
        text = json.dumps({"v": 1, "ts": device.unix_ms // 1000, "tq": "S", "sid": "",
                           "k": device.key_id, "seq": seq + number, **fields})
        entry = messages.read(device.name, stream, text.encode(), store.trusted())
        assert entry.verdict == "ok" and store.add([entry]) == ["stored"]


def test_events_that_nobody_signs_cannot_stop_the_reports(tmp_path, devices):
    store = _store(tmp_path / "x.sqlite", devices[:2])
    _tell(store, devices[0], *_STRANGE)
    assert work_up(store) and waiting(store) == 0 and not store.stuck
    reports = Reports(store)
    view = View(LocalTime("UTC"), _BEGIN_S * 1000, (_BEGIN_S + 9 * _DAY_S) * 1000)
    facts = load(store)
    for name in REPORTS:
        asked = reports.wanted(name, "UTC", view.from_ms, view.to_ms)
        found = reports.whole(asked) if name in WHOLE else reports.part(asked, 100)[0]
        json.dumps(found.json(), ensure_ascii=False).encode()
        report(name, facts, view).csv().encode()
    store.close()


@pytest.mark.parametrize("key", ["\\ud800", "\\u0000", "\\u001b[2J"])
def test_a_record_cannot_hold_its_session_up_by_what_is_wrong_with_it(tmp_path, capsys, key):
    device = SampleDevice("d-0", _BEGIN_S * 1000).plug().charge(1000).unplug()
    store = Store(tmp_path / "x.sqlite")
    device.store(store)
    sid = "d-0-000001"
    text = 'OCMF|{"PG":"KEY","ZS":"%s","KEY":1,"RD":[{"KEY":1}]}|{"KEY":"","SD":"00"}' % sid
    message = {"v": 1, "ts": _BEGIN_S, "tq": "S", "k": device.key_id, "kind": "tariff",
               "seq": len(device.messages) + 1, "sid": sid, "ocmf": text.replace("KEY", key)}
    store.add([messages.read("d-0", "rec", json.dumps(message).encode(), store.trusted())])
    assert work_up(store) and not store.stuck
    reasons = session_of(store, "d-0", sid).why_not
    assert any("unknown key" in why for why in reasons) and all(map(str.isprintable, reasons))
    store.close()
    listing.sessions("d-0", str(tmp_path / "x.sqlite"))
    said = capsys.readouterr().out
    assert "broken" in said and all(map(str.isprintable, said.splitlines()))


def test_a_session_is_as_sound_as_its_records_in_whatever_order_they_come(tmp_path):
    device = FakeDevice("d")
    records = [device.record(1), device.record(2, "complete", 3_000_000, "d-000001"),
               device.record(3, "begin", 1_000_000, "d-000001", broken=True)]
    for number, order in enumerate(permutations(records)):
        store = Store(tmp_path / ("%d.sqlite" % number))
        store.enrol("d", device.key_id, device.spki)
        for payload in order:  # each in a batch of its own
            store.add([messages.read("d", "rec", payload, store.trusted())])
        work_up(store)
        with store.engine.connect() as connection:
            assert connection.execute(sql.select(t.sessions.c.state, t.sessions.c.ok)).all() == [
                ("complete", False)]
            assert connection.execute(sql.select(t.totals.c.sessions)).scalar() == 0
        store.close()


def test_one_device_that_cannot_be_worked_up_holds_no_other_up(
        tmp_path, devices, monkeypatch, caplog):
    store = _store(tmp_path / "x.sqlite", [])
    for device in devices[:2]:
        device.store(store)
    right = workup._Device._tally

    def breaks(self, rows):
        if self._device == "d-0":
            raise KeyError("a defect")
        right(self, rows)

    monkeypatch.setattr(workup._Device, "_tally", breaks)
    for _ in range(2):
        assert work_up(store) is False
    assert waiting(store, ["d-1"]) == 0 and waiting(store, ["d-0"]) == len(devices[0].messages)
    told = [record.message for record in caplog.records if record.name == "evmeter.workup"]
    assert 0 < len(told) <= 16 and all(line.startswith("d-0: record ") for line in told)
    asked = Reports(store).wanted("records", "UTC", 0, 1)
    assert Reports(store).waiting(asked) > 0
    monkeypatch.setattr(workup._Device, "_tally", right)
    store.stuck.clear()  # as at the next start
    assert work_up(store) and waiting(store) == 0
    store.close()


def test_a_slow_database_gets_its_reports_part_by_part(tmp_path, devices):
    store = _store(tmp_path / "x.sqlite", [])
    for device in devices[:2]:
        device.store(store)
    parts = 0
    while waiting(store):
        left = waiting(store)
        work_up(store, -1)  # it is late before anything is done
        assert waiting(store) < left
        parts += 1
    assert parts > 1
    store.close()


def test_a_database_that_is_away_is_no_fault_of_a_device(tmp_path, devices, monkeypatch):
    store = _store(tmp_path / "x.sqlite", [])
    devices[0].store(store)

    def locked(self, _most):
        raise sql.exc.OperationalError("x", {}, _busy())

    monkeypatch.setattr(workup._Device, "work_up", locked)
    with pytest.raises(sql.exc.OperationalError):
        work_up(store)
    assert not store.stuck
    store.close()


def _busy():
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorname = "SQLITE_BUSY"
    return error
