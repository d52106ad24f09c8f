"""Whatever value an enrolled device puts into a field, signed or not: nothing fails, and nobody
else waits. On both databases, which do not refuse the same."""

import json
import logging

import pytest
import sqlalchemy as sql
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.backend import messages
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.live import Live
from evmeter_tools.backend.store import Store, now_ms
from evmeter_tools.insight import derive
from evmeter_tools.insight.workup import waiting, work_up
from evmeter_tools.sample.device import SampleDevice
from fakes.postgres import Postgres

_BEGIN_MS = 1_790_000_000_000
_VALUES = (None, True, -1, 2**53, 2**63, -2**63 - 1, 10**30, 1e308, "", "a\x00b", "\ud800", "é",
           "A" * 37, "x" * 3000, [], {"a": 2**70})
_SIGNED = (None, -1, 2**63, 1e308, "\x00", "\ud800", "A" * 37, [], 10**12 - 1,
           "0001-01-01T00:00:00,000+0000 S", "9999-12-31T23:59:59,999+2359 S")
_LIVE = {
    "info": {"v": 1, "ts": 1_790_000_000, "tq": "I", "boot": 3, "fw": "0.1.0", "head": 5,
             "tail": 1, "caps": [], "make": "E", "k": "a1b2c3d4", "cause": "power-on"},
    "status": {"v": 1, "ts": 1_790_000_000, "tq": "I", "n": 1, "st": "charging", "cp": "C",
               "sid": "x-000001", "prog": "charging", "s_mwh": 250_000, "el_s": 125,
               "i_max_ma": 16_000, "cost_info": 10, "cur": "EUR", "wname": "day", "price": 3974,
               "pend": 3, "al": ["METER_LOST"]},
    "tel": {"v": 1, "ts": 1_790_000_000, "tq": "I", "p_mw": 7_200_000, "s_mwh": 250_000,
            "e_mwh": 6_250_000, "sid": "x-000001", "u_mv": [230_000], "i_ma": [16_000]},
    "cfg": {"v": 1, "ts": 1, "tq": "I", "rev": 3, "cfg": {"id": "x", "tariff": None}, "err": ""},
    "cmd/res": {"v": 1, "ts": 1, "tq": "I", "id": "c-1", "op": "identify", "ok": True},
    "alarm/METER_LOST": {"v": 1, "ts": 1, "sev": "crit", "act": True, "n": 1,
                         "on_ts": 1_790_000_000, "text": "gone", "ack": False}}


@pytest.fixture(scope="module", params=("SQLite", "PostgreSQL"))
def new_database(request):
    if request.param == "SQLite":
        yield lambda folder: folder / "values.sqlite"
        return
    server = Postgres()
    yield lambda _folder: server.another()
    server.stop()


@pytest.fixture
def store(new_database, tmp_path):
    opened = Store(new_database(tmp_path))
    yield opened
    opened.close()


def _device(store, name, secret):
    """An enrolled device that has charged once."""
    device = SampleDevice(name, _BEGIN_MS, secret=secret)
    device.run(900).plug().charge(1800, 7360).phase("finished_estimated", 120).unplug().run(1800)
    store.enrol(name, device.key_id, device.spki)
    return device


def _places(value, at=()):
    """The way to each value in it."""
    items = (value.items() if isinstance(value, dict) else
             enumerate(value) if isinstance(value, list) else ())
    for name, inner in items:
        yield (*at, name)
        yield from _places(inner, (*at, name))


def _put(value, place, new):
    value = json.loads(json.dumps(value))
    held = value
    for name in place[:-1]:
        held = held[name]
    held[place[-1]] = new
    return value


def _text(value):
    return json.dumps(value, separators=(",", ":"))


def _messages(device):
    """(stream, message as a dict) with each value in each field, numbered; of records and audit
    entries first what is not signed, then what is, signed by the device."""
    def signature(text):
        return device._signer._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())).hex()

    seq = len(device.messages)
    for stream, payload in device.messages:
        message = json.loads(payload)
        seq += 1
        for place in _places(message):
            if place[0] in ("k", "seq", "ocmf", "sg"):
                continue
            for value in _VALUES:
                seq += 1
                changed = _put(message, place, value)
                changed["seq"] = seq
                if stream == "log":
                    changed.pop("sg", None)
                    changed["sg"] = signature(_text(changed)[:-1])
                yield stream, changed
        if stream == "rec":
            head, signed, _ = message["ocmf"].split("|")
            fields = json.loads(signed)
            for place in _places(fields):
                for value in _SIGNED:
                    seq += 1
                    text = _text(_put(fields, place, value))
                    if place[-1] == "RV" and type(value) is int:
                        text = _text(_put(fields, place, "@")).replace('"@"', "%d.000" % value)
                    ocmf = '%s|%s|{"SA":"ECDSA-secp256r1-SHA256","SD":"%s"}' % (
                        head, text, signature(text))
                    yield stream, {**message, "seq": seq, "ocmf": ocmf}


def test_live_values_of_any_kind_are_taken_or_left(store):
    live = Live(store)
    device = _device(store, "live-1", 3)
    _device(store, "live-2", 4)
    for topic, message in _LIVE.items():
        for place in _places(message):
            live.take([(device.name, topic, _text(_put(message, place, value)).encode(), now_ms())
                       for value in _VALUES]
                      + [("live-2", "avail", b"online", now_ms())])
    live.take([(device.name, "tel", _text(_LIVE["tel"]).encode(), now_ms())])
    with store.engine.connect() as connection:
        rows = {row.device: row for row in connection.execute(sql.select(t.states))}
    assert rows["live-1"].register_mwh == 6_250_000 and rows["live-2"].online


def test_durable_values_of_any_kind_are_stored_or_refused_and_reports_go_on(store, caplog):
    caplog.set_level(logging.ERROR)
    bad = _device(store, "bad-1", 7)
    good = _device(store, "good-1", 8)
    trusted = store.trusted()
    taken = 0
    for stream, message in _messages(bad):
        try:
            entry = messages.read("bad-1", stream, _text(message).encode(), trusted)
        except messages.MessageError:
            continue
        taken += 1
        store.add([entry])
    assert taken > 2000
    for stream, payload in good.messages:
        store.add([messages.read("good-1", stream, payload, trusted)])
    assert work_up(store) and waiting(store) == 0
    with store.engine.connect() as connection:
        totals = {row.device: row for row in connection.execute(sql.select(t.totals))}
    assert totals["good-1"].sessions == 1


def test_a_record_that_fails_in_the_reports_costs_the_others_nothing(store, caplog, monkeypatch):
    """The bound is taken away, so that one value fits no column."""
    monkeypatch.setattr(derive, "MOST", 2**80)
    bad = _device(store, "bad-1", 7)
    good = _device(store, "good-1", 8)
    trusted = store.trusted()
    number = len(bad.messages) + 1
    boot = json.loads(bad.messages[0][1])
    entries = [messages.read("bad-1", stream, payload, trusted)
               for stream, payload in [*bad.messages, ("evt", _text(
                   {**boot, "seq": number, "out_mwh": 2**70}).encode())]]
    store.add([entries[-1], *entries[:-1]])
    store.add([messages.read("good-1", stream, payload, trusted)
               for stream, payload in good.messages])
    assert work_up(store) is False and waiting(store) == 1
    assert "bad-1: record %d is in no report" % number in caplog.text
    with store.engine.connect() as connection:
        totals = {row.device: row for row in connection.execute(sql.select(t.totals))}
        held = connection.execute(sql.select(sql.func.count()).select_from(t.records).where(
            t.records.c.device == "bad-1")).scalar()
        told = connection.execute(sql.select(t.alarms.c.text).where(
            t.alarms.c.device == "bad-1")).scalars().all()
    assert held == number and totals["good-1"].sessions == totals["bad-1"].sessions == 1
    assert told == ["record %d is in no report" % number]
