"""What leaves the backend under pseudonyms, as metrics and for NEVI; and the store filled fast."""

import csv
import json
import sqlite3
import sys

import duckdb
import pytest
from prometheus_client.parser import text_string_to_metric_families

from evmeter_tools.backend.store import Store
from evmeter_tools.cli import main
from evmeter_tools.errors import UserError
from evmeter_tools.export import metrics, nevi, research
from evmeter_tools.insight.facts import load
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.uptime import Outage
from evmeter_tools.sample import fill
from evmeter_tools.sample.device import SampleDevice
from test_cpy_sessions import BEGIN_MS, HOUR_S, USER, facts_of

KEY = bytes(range(32))
EVER = (0, 2**53)
UTC = LocalTime("UTC")


def sample(name="d-1"):
    """Two sessions, one by a known user; the second one ends by a power failure."""
    device = SampleDevice(name, BEGIN_MS).run(900).plug(USER).charge(2 * HOUR_S, 11000)
    device.phase("finished_estimated", 1333).unplug().run(3000, 10)
    return device.plug().charge(1800, 7000).cut(HOUR_S)


# -- research --

def test_pseudonyms_are_keyed_and_of_one_kind():
    name = research.pseudonym(KEY, "device", "d-1")
    assert name == research.pseudonym(KEY, "device", "d-1") and len(name) == 20
    assert len({name, research.pseudonym(KEY, "user", "d-1"),
                research.pseudonym(KEY, "device", "d-2"),
                research.pseudonym(bytes(32), "device", "d-1")}) == 4


def test_the_research_export_names_nobody(tmp_path):
    facts = {"d-1": facts_of(sample()), "other": facts_of(sample("other"))}
    tables = [research.sessions(facts, KEY, *EVER, {"d-1": "yard"}, {"d-1": 22_000_000}),
              research.intervals(facts, KEY, *EVER)]
    paths = research.write(tables, tmp_path)
    assert sorted(path.name for path in paths) == [
        "dictionary.csv", "intervals.csv", "intervals.parquet", "sessions.csv", "sessions.parquet"]
    everything = b"".join(path.read_bytes() for path in paths)
    for secret in (b"d-1", b"other-", b"yard", b"04AABBCC", b"S-d-1", KEY.hex().encode()):
        assert secret not in everything, secret
    for table in tables:
        path = tmp_path / (table.name + ".parquet")
        relation = duckdb.read_parquet(str(path))
        assert relation.columns == [column.key for column in table.columns]
        assert [str(kind) for kind in relation.types] == [
            {"integer": "BIGINT", "text": "VARCHAR"}[column.label] for column in table.columns]
        assert relation.fetchall() == table.rows, table.name
    words = list(csv.DictReader((tmp_path / "dictionary.csv").open()))
    assert [(row["table"], row["column"]) for row in words] == [
        (table.name, column.key) for table in tables for column in table.columns]
    assert all(row["meaning"] for row in words)


def test_research_rows_are_rounded_verified_sessions():
    device = sample().run(60).plug().charge(60)  # the third one is open
    table = research.sessions({"d-1": facts_of(device)}, KEY, *EVER, None, {"d-1": 22_000_000})
    first, second = table.dicts()
    assert first["start_s"] == (BEGIN_MS // 1000 + 900) // 300 * 300
    assert (first["duration_s"], first["charging_s"], first["idle_s"]) == (8400, 7200, 1200)
    assert (first["energy_mwh"], first["rated_mw"]) == (22_000_000, 22_000_000)
    assert first["user"] and second["user"] is None
    assert (first["outcome"], second["outcome"]) == ("success", "power_fail")
    assert first["site"] != first["device"]
    unknown = facts_of(SampleDevice("d-1", BEGIN_MS, quality="U").plug().charge(HOUR_S).unplug())
    assert research.sessions({"d-1": unknown}, KEY, *EVER).rows == []
    assert research.intervals({"d-1": unknown}, KEY, *EVER).rows == []


def test_an_export_of_nothing_has_its_columns(tmp_path):
    research.write([research.sessions({}, KEY, *EVER), research.intervals({}, KEY, *EVER)],
                   tmp_path)
    relation = duckdb.read_parquet(str(tmp_path / "sessions.parquet"))
    assert "energy_mwh" in relation.columns and relation.fetchall() == []


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "keys" / "research.key"
    with pytest.raises(UserError, match="--new-key"):
        research.read_key(path)
    research.new_key(path)
    assert path.stat().st_mode & 0o077 == 0 and len(research.read_key(path)) == 32
    with pytest.raises(UserError, match="exists"):
        research.new_key(path)
    for text in ("", "00" * 31, "zz" * 32):
        path.write_text(text)
        with pytest.raises(UserError, match="32 bytes"):
            research.read_key(path)


# -- metrics --

def test_metrics_are_prometheus_text():
    own = facts_of(sample())
    body = metrics.text({**metrics.values_of({'d"\\\n': own, "d-1": own}, ["d-1", "d-1"]),
                         "evmeter_online": {("d-1",): 1}}).decode()
    found = {(one.name, tuple(sorted(one.labels.items()))): one.value
             for family in text_string_to_metric_families(body) for one in family.samples}
    d1 = (("device", "d-1"),)
    assert found["evmeter_sessions_total", d1] == 2
    # 22 kWh, then 30 minutes at 7 kW
    assert found["evmeter_energy_mwh_total", d1] == 22_000_000 + 3_500_000
    assert found["evmeter_records_missing", d1] == 0 and found["evmeter_online", d1] == 1
    assert found["evmeter_quarantined_total", d1] == 2
    assert found["evmeter_records_total", (*d1, ("stream", "rec"), ("verdict", "ok"))] == 4
    assert found["evmeter_devices", ()] == 2
    assert found["evmeter_sessions_total", (("device", 'd"\\\n'),)] == 2
    with pytest.raises(ValueError, match="no metric"):
        metrics.text({"evmeter_x": {}})


# -- NEVI --

def test_the_nevi_set_of_a_quarter():
    facts = {"d-1": facts_of(sample())}
    outages = [Outage("d-1", BEGIN_MS // 1000 - 7200, BEGIN_MS // 1000 - 3600, "grid", "utility"),
               Outage("d-1", 0, 60)]
    sessions, uptime, spans = nevi.nevi(facts, "2026Q3", UTC, outages, {"d-1": "yard"},
                                        now_s=BEGIN_MS // 1000 + 40 * 86400)
    first, second = sessions.dicts()
    assert (first["station"], first["port"], first["payment_method"]) == (
        "yard", "d-1", "RFID card")
    assert (first["start_utc"], first["end_utc"]) == (
        "2026-09-22T06:15:00Z", "2026-09-22T08:37:13Z")
    assert (first["energy_kwh"], first["peak_kw"], first["error_codes"]) == (
        "22.000000", "11.000000", "")
    assert (second["energy_kwh"], second["error_codes"], second["payment_method"]) == (
        "3.500000", "power_fail", "none")
    # of the months before its first record nothing is known
    assert [(row["month"], row["t_excluded_min"]) for row in uptime.dicts()] == [
        ("2026-09", 60)]
    # nor is anything of those that are to come
    at_s = BEGIN_MS // 1000 + 40 * 86400
    _, uptime, _ = nevi.nevi(facts, "2026Q4", UTC, now_s=at_s)
    assert [row["month"] for row in uptime.dicts()] == ["2026-10", "2026-11"]
    _, uptime, _ = nevi.nevi(facts, "2027Q1", UTC, now_s=at_s)
    assert uptime.rows == []
    assert [row["excluded"] for row in spans.dicts()] == ["utility"]
    assert nevi.nevi(facts, "2026Q2", UTC)[0].rows == []
    for wrong in ("2026", "Q3", "2026Q5", "2026-Q3", "20.6Q1"):
        with pytest.raises(UserError, match="quarter"):
            nevi.quarter_months(wrong)


# -- a store filled fast --

@pytest.mark.parametrize("signed", [False, True])
def test_a_filled_store_is_sound(tmp_path, signed):
    path = tmp_path / "load.sqlite"
    assert fill.fill(path, 3, 20, BEGIN_MS // 1000, signed=signed) >= 3 + 6 * 20
    store = Store(path)
    facts = load(store)
    rows = store.rows()
    store.close()
    assert sorted(facts) == ["load-00000", "load-00001", "load-00002"]
    assert [len(own.sessions) for own in facts.values()] == [7, 7, 6]
    for own in facts.values():
        assert own.missing == 0
        ends = [0]
        for session in own.sessions:
            assert session.state == ("complete" if signed else "broken"), session.reasons
            assert ends[-1] <= session.start_ms < session.stop_ms <= BEGIN_MS + 86_400_000
            ends.append(session.stop_ms)
    assert all(json.loads(row.payload)["seq"] == row.seq for row in rows)
    with pytest.raises(UserError, match="in use"):
        fill.fill(path, 1, 1)
    for wrong in (("x://y", 1, 1), (path, 0, 1)):
        with pytest.raises(UserError):
            fill.fill(*wrong)


def test_a_filled_store_is_the_same_each_time_and_may_have_no_records(tmp_path):
    assert list(fill.plans(2, 5, 10**9)) == list(fill.plans(2, 5, 10**9))
    assert list(fill.plans(2, 5, 10**9)) != list(fill.plans(2, 5, 10**9, seed=2))
    dense = list(fill.plans(1, 2000, 10**9, days=100))  # more than one in two hours
    assert all(before.end_s <= after.begin_s for before, after in zip(dense, dense[1:]))
    fill.fill(tmp_path / "x.sqlite", 2, 5, 10**9, records=False)
    with sqlite3.connect(tmp_path / "x.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM record").fetchone() == (0,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# -- the commands --

def test_the_commands(tmp_path, capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evmeter", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    db = tmp_path / "db.sqlite"
    store = Store(db)
    sample().store(store)
    store.close()
    period = ["--db", db, "--from", "2026-09-22", "--to", "2026-09-24", "--zone", "Europe/Berlin"]
    key = tmp_path / "research.key"
    code, said = run("export", "research", "--key", key, "--new-key", "--out", tmp_path / "r",
                     *period)
    assert code == 0 and said.out.startswith("2 sessions"), said
    assert run("export", "research", "--key", tmp_path / "r" / "k", "--out", tmp_path / "r",
               *period)[0] == 2
    code, said = run("export", "metrics", "--db", db)
    assert code == 0 and 'evmeter_sessions_total{device="d-1"} 2.0' in said.out
    code, said = run("export", "nevi", "2026Q3", "--db", db, "--out", tmp_path / "nevi")
    assert code == 0 and len(list((tmp_path / "nevi").iterdir())) == 3
    code, said = run("report", "all", "--out", tmp_path / "all", "--rated-w", 11000, *period)
    assert code == 0 and len(list((tmp_path / "all").iterdir())) == 18
    code, said = run("report", "starts", *period)
    assert code == 0 and "tue" in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines())
    code, said = run("report", "demand", *period, "--json")
    assert json.loads(said.out)["rows"][0]["peak_mw"] == 11_000_000
    code, said = run("report", "sessions", *period, "--csv")
    assert said.out.startswith("figure,count,")
    code, said = run("backend", "fill", tmp_path / "f.sqlite", "--devices", 2, "--sessions", 3)
    assert code == 0 and "rows written" in said.out
    for words in (["report", "x", *period], ["report", "all", *period],
                  ["report", "list", "--db", tmp_path / "none"],
                  ["report", "list", "--db", db, "--from", "yesterday"],
                  ["report", "list", "--db", db, "--zone", "Nowhere"],
                  ["report", "list", "--db", db, "--from", "2026-09-02", "--to", "2026-09-01"],
                  ["report", "uptime", "--db", db, "--to", "9999-12-31"],
                  ["report", "starts", "--db", db, "--from", "0001-01-01"],
                  ["export", "nevi", "9999Q4", "--db", db],
                  ["export", "nevi", "0000Q1", "--db", db],
                  ["export", "nevi", "2026", "--db", db]):
        code, said = run(*words)
        assert code == 2 and len(said.err.splitlines()) == 1, (words, said)
    assert not (tmp_path / "none").exists()
