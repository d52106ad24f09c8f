"""Migrations, live state, alarms, gaps, key changes, log-ins at the broker, copies."""

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import ssl
import threading
import time

import paho.mqtt.client as paho
import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from evmeter.ledger.signer import SoftwareSigner
from evmeter_tools.backend import command as backend_command
from evmeter_tools.backend import leader as leader_module
from evmeter_tools.backend import messages, notices, orders
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.broker import Broker
from evmeter_tools.backend.collector import Collector, prove_sharing
from evmeter_tools.backend.credentials import COLLECTOR, Credentials, password_line
from evmeter_tools.backend.gaps import Gaps
from evmeter_tools.backend.leader import Leader
from evmeter_tools.backend.live import SILENT, Live, newest
from evmeter_tools.backend.mqtt import Address
from evmeter_tools.backend.outbox import Channels, Outbox
from evmeter_tools.backend.sessions import missing_numbers
from evmeter_tools.backend.store import Store, database_url, now_ms, shown
from evmeter_tools.bench.tls_servers import Certificates
from evmeter_tools.errors import UserError
from fakes.device import FakeDevice

_FIRST = """\
CREATE TABLE about (schema INTEGER NOT NULL);
CREATE TABLE "key" (device VARCHAR(20) NOT NULL, key_id VARCHAR(8) NOT NULL,
    spki VARCHAR(200) NOT NULL, enrolled_at BIGINT NOT NULL, PRIMARY KEY (device, key_id));
CREATE TABLE record (device VARCHAR(20) NOT NULL, key_id VARCHAR(8) NOT NULL,
    seq BIGINT NOT NULL, stream VARCHAR(3) NOT NULL, sid VARCHAR(36) NOT NULL,
    kind VARCHAR(32) NOT NULL, payload BLOB NOT NULL, sha256 VARCHAR(64) NOT NULL,
    received_at BIGINT NOT NULL, verdict VARCHAR(8) NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (device, key_id, seq));
CREATE TABLE quarantine (id INTEGER NOT NULL, device VARCHAR(20) NOT NULL,
    key_id VARCHAR(8) NOT NULL, seq BIGINT NOT NULL, payload BLOB NOT NULL,
    sha256 VARCHAR(64) NOT NULL, received_at BIGINT NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (id), UNIQUE (device, key_id, seq, sha256));
CREATE TABLE live (device VARCHAR(20) NOT NULL, topic VARCHAR(64) NOT NULL,
    payload BLOB NOT NULL, received_at BIGINT NOT NULL, PRIMARY KEY (device, topic));
INSERT INTO about VALUES (1);
"""


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "db.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def device(store):
    made = FakeDevice("d-1")
    store.enrol("d-1", made.key_id, made.spki)
    return made


def _add(store, device, *messages_):
    return store.add([messages.read(device.name, stream, payload, store.trusted())
                      for stream, payload in messages_])


def _all(store, table, **where):
    with store.engine.connect() as connection:
        return connection.execute(sql.select(table).where(
            *(table.c[name] == value for name, value in where.items()))).all()


# -- migrations and copies --

def test_a_database_of_the_first_schema_is_brought_up_with_its_sessions(tmp_path):
    path = tmp_path / "old.sqlite"
    device = FakeDevice("old-1")
    with sqlite3.connect(path) as old:
        old.executescript(_FIRST)
        old.execute('INSERT INTO "key" VALUES (?, ?, ?, 1)',
                    ("old-1", device.key_id, device.spki))
        sid = "old-1-000001"
        for seq, kind in ((1, "begin"), (2, "complete")):
            payload = device.record(seq, kind, 1_000_000 * seq, sid)
            old.execute("INSERT INTO record VALUES (?, ?, ?, 'rec', ?, ?, ?, ?, 5, 'ok', '')",
                        ("old-1", device.key_id, seq, sid, kind, payload,
                         hashlib.sha256(payload).hexdigest()))
    store = Store(path)
    assert [row.seq for row in store.rows("old-1")] == [1, 2]
    (session,) = _all(store, t.sessions)
    assert (session.state, session.energy_mwh, session.ok) == ("complete", 1_000_000, True)
    with store.engine.connect() as connection:
        assert not sql.inspect(connection).has_table("about")
    store.close()
    assert Store(path).trusted() == {("old-1", device.key_id): device.spki}


def test_the_migrations_lead_to_the_tables_as_they_are_described(store):
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), t.meta) == []


def test_a_copy_made_in_use_can_be_put_in_the_place_of_the_database(store, device, tmp_path):
    _add(store, device, ("evt", device.event(1)))
    with store.engine.begin() as connection:  # somebody writes
        connection.execute(sql.insert(t.sites).values(id="s"))
        store.backup(tmp_path / "copy.sqlite")
    _add(store, device, ("evt", device.event(2)))
    restored = Store(tmp_path / "copy.sqlite")
    assert [row.seq for row in restored.rows()] == [1]
    assert restored.trusted() == store.trusted()
    _add(restored, device, ("evt", device.event(3)))
    Gaps(restored, 0).look()
    (gap,) = _all(restored, t.gaps)
    assert (gap.first, gap.last, gap.closed_at) == (2, 2, None)
    (order,) = _all(restored, t.commands)
    assert (order.op, json.loads(order.args)) == ("resend", {"from": 2, "to": 2})


def test_a_password_in_a_database_url_is_not_shown():
    assert database_url("postgres://u:p@h/n") == "postgresql+pg8000://u:p@h/n"
    assert shown("postgresql://u:secret@h:1/n") == "postgresql://u@h:1/n"
    assert shown("build/x.sqlite") == "build/x.sqlite"


# -- records --

def test_a_session_follows_from_its_signed_records_only(store, device):
    sid = "d-1-000001"
    _add(store, device, ("rec", device.record(1, "begin", 5_000_000, sid)))
    (session,) = _all(store, t.sessions)
    assert (session.state, session.begin_mwh, session.ok) == ("open", 5_000_000, True)
    _add(store, device, ("rec", device.record(2, "complete", 6_000_000, sid)))
    (session,) = _all(store, t.sessions)
    assert (session.state, session.energy_mwh, session.tx) == ("complete", 1_000_000, "E")
    _add(store, device, ("rec", device.record(3, "complete", 9_000_000, sid, broken=True)))
    (session,) = _all(store, t.sessions)
    assert (session.energy_mwh, session.ok) == (1_000_000, False)
    assert [row.code for row in _all(store, t.alarms)] == [notices.BAD_RECORD]


def test_texts_that_a_database_cannot_hold_are_refused(device):
    trusted = {("d-1", device.key_id): device.spki}
    for sid in ("a\x00b", "\ud800", "\u202e", "a\nb"):
        payload = json.dumps({**json.loads(device.event(1)), "sid": sid}).encode()
        with pytest.raises(messages.MessageError, match="printable"):
            messages.read("d-1", "evt", payload, trusted)
        payload = json.dumps({**json.loads(device.event(1)), "ev": sid}).encode()
        assert messages.read("d-1", "evt", payload, trusted).kind == "evt"


def test_a_bad_message_does_not_hold_up_the_others(store, device):
    collector = Collector(store, Address("127.0.0.1", 1), "x")
    good = messages.read("d-1", "evt", device.event(1), store.trusted())
    bad = messages.read("d-1", "evt", device.event(2), store.trusted())
    object.__setattr__(bad, "kind", None)  # what no column takes
    collector._stopping.wait = lambda _seconds: False
    assert collector._commit([good, bad]) == ["stored", None]
    assert [row.seq for row in store.rows()] == [1]


def test_a_key_that_both_sign_takes_over_with_its_numbers(store, device):
    new = FakeDevice("d-1")
    signer = SoftwareSigner(new._key.private_numbers().private_value.to_bytes(32, "big"),
                            os.urandom)
    text = device.event(3, "key_change", new_k=new.key_id, new_spki=new.spki)[:-1]
    text += b', "sn": "%s"' % asyncio.run(
        signer.sign(hashlib.sha256(text).digest())).hex().encode()
    device.event = lambda *_, **__: text + b"}"
    entry = device.log(3, "key_change")
    del device.event
    _add(store, device, ("evt", device.event(1)), ("evt", device.event(2)), ("log", entry))
    assert store.trusted()["d-1", new.key_id] == new.spki
    line = store.lines()["d-1", new.key_id]
    assert set(line) == {device.key_id, new.key_id}
    _add(store, new, ("evt", new.event(4)))
    assert store.contiguous("d-1", line) == 4
    assert missing_numbers(store, "d-1") == ()
    _add(store, new, ("evt", new.event(6)))
    assert missing_numbers(store, "d-1") == (5,)


# -- gaps --

def test_a_gap_is_asked_for_and_stays_until_it_closes(store, device):
    _add(store, device, *[("evt", device.event(seq)) for seq in (1, 2, 5, 9)])
    gaps = Gaps(store, 0)
    gaps.look()
    assert [(row.first, row.last, row.missing) for row in _all(store, t.gaps)] == [
        (3, 4, 2), (6, 8, 3)]
    assert [json.loads(row.args) for row in _all(store, t.commands)] == [
        {"from": 3, "to": 4}, {"from": 6, "to": 8}]
    gaps.look()
    assert len(_all(store, t.commands)) == 2  # not again at once
    assert [row.code for row in _all(store, t.alarms)] == [notices.GAP]
    _add(store, device, ("evt", device.event(3)), ("evt", device.event(6)))
    gaps.look()
    assert [(row.missing, row.closed_at) for row in _all(store, t.gaps)] == [(1, None), (2, None)]
    _add(store, device, *[("evt", device.event(seq)) for seq in (4, 7, 8)])
    gaps.look()
    assert all(row.closed_at for row in _all(store, t.gaps))
    assert all(row.cleared_at for row in _all(store, t.alarms))


def test_a_gap_that_is_young_is_not_asked_for(store, device):
    _add(store, device, ("evt", device.event(2)))
    Gaps(store, 60_000).look()
    assert [row.first for row in _all(store, t.gaps)] == [1]
    assert _all(store, t.commands) == []


# -- live --

def _status(n, **fields):
    return json.dumps({"v": 1, "n": n, "st": "idle", "cp": "A", **fields}).encode()


def test_an_older_status_changes_nothing_and_a_new_boot_counts_anew(store, device):
    live = Live(store)
    live.take([("d-1", "avail", b"online", 1000), ("d-1", "info", b'{"boot": 3}', 1000),
               ("d-1", "status", _status(7, st="charging", cp="C"), 1001)])
    live.take([("d-1", "status", _status(6), 1002)])
    (state,) = _all(store, t.states)
    assert (state.state, state.cp) == ("charging", "C")
    live.take([("d-1", "info", b'{"boot": 4}', 1003), ("d-1", "status", _status(1), 1004)])
    (state,) = _all(store, t.states)
    assert state.state == "available"
    live.take([("d-1", "status", _status(1, boot=3, st="charging"), 1005)])
    assert _all(store, t.states)[0].state == "available"


def test_spans_follow_the_states_without_a_hole(store, device):
    live = Live(store)
    for at, topic, payload in (
            (10, "avail", b"online"), (11, "status", _status(1)),
            (20, "status", _status(2, st="charging", cp="C")), (30, "avail", b"offline"),
            (40, "avail", b"online"), (50, "status", _status(3, st="charging", cp="F"))):
        live.take([("d-1", topic, payload, at)])
    assert [(row.state, row.from_ms, row.to_ms) for row in _all(store, t.spans)] == [
        ("unknown", 10, 11), ("available", 11, 20), ("charging", 20, 30), ("offline", 30, 40),
        ("charging", 40, 50), ("fault", 50, None)]
    assert [(row.code, bool(row.cleared_at)) for row in _all(store, t.alarms)] == [
        (notices.OFFLINE, True)]


def test_what_is_no_live_message_changes_nothing(store, device):
    live = Live(store)
    live.take([("stranger", "avail", b"online", 1)])
    assert _all(store, t.states) == []
    big = 2**70
    live.take([("d-1", topic, payload, 5) for topic, payload in (
        ("status", b"{"), ("status", b"[1]"), ("status", b"\xff"), ("status", b"[" * 5000),
        ("status", b'{"n": "x", "st": {}, "cp": 7, "sid": "\\ud800", "pend": %d}' % big),
        ("tel", b'{"p_mw": %d, "e_mwh": 1.5, "s_mwh": true, "sid": "\\u0000"}' % big),
        ("alarm/lower", b'{"sev": "crit"}'),
        ("alarm/A", b'{"sev": 7, "n": -1, "text": "\\u0000"}'),
        ("alarm/RECORD_CONFLICT", b'{"sev": "crit"}'), ("cmd/res", b'{"id": ["x"]}'),
        ("info", b" " * 9000), ("other", b"{}"))])
    (state,) = _all(store, t.states)
    assert (state.state, state.power_mw, state.sid) == ("unknown", None, "")
    assert [(row.code, row.severity, row.text, row.count) for row in _all(store, t.alarms)] == [
        ("A", "warn", "", 1)]


def test_a_message_that_cannot_be_stored_costs_the_others_nothing(store, device, monkeypatch):
    Live(store).take([("d-1", "alarm/A", b'{"sev": "crit", "on_ts": %d}' % 2**61, 7)])
    assert _all(store, t.alarms)[0].onset_ms == 7
    leader = Leader(store, Address("127.0.0.1", 1), "follows")
    note = Live._note

    def breaks(self, connection, device, topic, message, *more):
        if message.get("n") == 2:
            raise OverflowError("a defect")
        return note(self, connection, device, topic, message, *more)

    monkeypatch.setattr(Live, "_note", breaks)
    follow = threading.Thread(target=leader._follow)
    for n in (1, 2, 3):
        leader._queue.put(("evmeter/v1/d-1/status", _status(n, cp="B"), n))
    follow.start()
    deadline = time.monotonic() + 30
    while newest(store, "d-1", "status").get("n") != 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    leader._stopping.set()
    follow.join()
    assert newest(store, "d-1", "status")["n"] == 3
    (state,) = _all(store, t.states)
    assert state.cp == "B"


def test_who_says_nothing_for_long_is_off_line_whatever_the_broker_kept(store, device):
    leader = Leader(store, Address("127.0.0.1", 1), "listens")
    live, at = leader._live, now_ms()

    def look(listens_ms):
        leader._listens_from = at - listens_ms
        leader._look_for_silent()
        while not leader._queue.empty():
            live.take(leader._next_batch())
        (state,) = _all(store, t.states)
        return state.online

    live.take([("d-1", topic, payload, at - 901_000)
               for topic, payload in (("avail", b"online"), ("status", _status(1)))])
    leader._is_behind = True
    assert look(902_000)  # its word may wait for the database
    leader._is_behind = False
    assert look(800_000)  # the broker may have more to say to who has just come
    assert not look(902_000)
    assert [row.code for row in _all(store, t.alarms, cleared_at=None)] == ["OFFLINE"]
    live.take([("d-1", "status", _status(1), at)])  # as the broker has kept it
    assert not look(902_000)
    live.take([("d-1", "tel", b'{"p_mw": 1}', at)])
    assert look(902_000) and not _all(store, t.alarms, cleared_at=None)
    assert [row.state for row in _all(store, t.spans)][1:] == ["offline", "available"]
    # who goes by its own word stays off line, whatever still comes
    live.take([("d-1", "avail", SILENT, at)])
    live.take([("d-1", "avail", b"offline", at), ("d-1", "tel", b'{"p_mw": 1}', at)])
    assert not look(902_000)


def test_live_messages_wait_for_a_database_that_is_busy(tmp_path, store, device, monkeypatch):
    """Whoever holds the database for long: who went off line and what was alarming meanwhile is
    told afterwards, of each thing the newest."""
    Live(store).take([("d-1", "avail", b"online", 1)])
    monkeypatch.setattr(leader_module, "_TRY_S", 0.01)
    sql.event.listen(store.engine, "connect", lambda connection, _: connection.execute(
        "PRAGMA busy_timeout=50"))
    store.engine.dispose()
    leader = Leader(store, Address("127.0.0.1", 1), "waits")
    tries, right = [], leader._live.take

    def take(batch):
        tries.append(len(batch))
        right(batch)

    monkeypatch.setattr(leader._live, "take", take)
    follow = threading.Thread(target=leader._follow, daemon=True)
    other = sqlite3.connect(tmp_path / "db.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    follow.start()
    for n in range(200):
        leader._queue.put(("evmeter/v1/d-1/status", _status(n, cp="B"), n))
    leader._queue.put(("evmeter/v1/d-1/alarm/METER_LOST", b'{"sev": "crit"}', 300))
    leader._queue.put(("evmeter/v1/d-1/avail", b"offline", 301))
    deadline = time.monotonic() + 30
    while (len(tries) < 4 or leader._queue.qsize()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert tries[-1] == 3  # of each topic the newest
    assert leader._is_behind
    other.execute("COMMIT")
    while len(_all(store, t.alarms)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    while leader._is_behind and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not leader._is_behind
    leader._stopping.set()
    follow.join()
    other.close()
    assert {row.code for row in _all(store, t.alarms)} == {"METER_LOST", "OFFLINE"}
    assert newest(store, "d-1", "status")["n"] == 199
    (state,) = _all(store, t.states)
    assert (state.online, state.cp) == (False, "B")


def test_an_alarm_lives_until_it_is_over_and_seen(store, device):
    live = Live(store)

    def alarm(at, payload):
        live.take([("d-1", "alarm/METER", json.dumps(payload).encode() if payload else b"", at)])
        return _all(store, t.alarms)[-1]

    first = alarm(10, {"sev": "crit", "act": True, "n": 1, "on_ts": 5, "text": "no reply"})
    assert (first.severity, first.onset_ms, first.raised_at) == ("crit", 5000, 10)
    with store.engine.begin() as connection:
        assert notices.acknowledge(connection, first.id, "ann", "on my way", 11).code == "METER"
        assert notices.acknowledge(connection, first.id, "bob", "", 12) is None
    again = alarm(13, {"sev": "crit", "act": True, "n": 2, "on_ts": 5, "text": "no reply"})
    assert (again.id, again.acked_at, again.count) == (first.id, None, 2)
    waits = alarm(14, {"sev": "crit", "act": False, "n": 2, "on_ts": 5, "text": "no reply"})
    assert waits.over_at == 14 and waits.cleared_at is None
    assert alarm(15, None).cleared_at == 15
    assert alarm(16, {"sev": "crit", "act": True, "n": 3, "on_ts": 16}).id != first.id


def test_samples_of_a_session_are_thinned(store, device):
    live = Live(store)
    live.take([("d-1", "tel", b'{"p_mw": 7000, "s_mwh": 5, "sid": "s"}', at)
               for at in range(0, 400_000, 500)])
    found = [row.at_ms for row in _all(store, t.samples)]
    assert 300 <= len(found) <= 320
    live.forget_samples(300_000)
    assert all(row.at_ms >= 300_000 for row in _all(store, t.samples))


# -- the leader and the broker --

def test_one_leads_and_another_takes_over(tmp_path, store, device):
    broker = Broker(tmp_path / "broker", kind="mosquitto").start()
    leaders = [Leader(store, Address(broker.host, broker.port), "l%d" % n) for n in range(2)]
    watcher = FakeDevice("d-1").start(broker.host, broker.port)
    try:
        leaders[0].start()
        assert leaders[0].leads.wait(15)
        leaders[1].start()
        assert not leaders[1].leads.wait(1.5)
        came = _Listener(broker, "evmeter/v1/d-1/cmd")
        with store.engine.begin() as connection:
            orders.put(connection, "d-1", "identify", {}, "test")
        assert json.loads(came.get())["op"] == "identify"
        came.close()
        leaders[0].stop()
        assert leaders[1].leads.wait(15)
        assert watcher.wait_for(lambda: watcher.host and watcher.host[-1]["online"])
    finally:
        leaders[1].stop()
        watcher.stop()
        broker.stop()


def test_a_deeply_nested_status_does_not_silence_the_leader(tmp_path, store, device):
    broker = Broker(tmp_path / "broker", kind="mosquitto").start()
    leader = Leader(store, Address(broker.host, broker.port), "nested")
    try:
        leader.start()
        assert leader.leads.wait(15)
        came = _Listener(broker, "evmeter/v1/d-1/cmd")
        for text in (b"[" * 8000, b'{"tq": "U", "n": 3}'):
            came.client.publish("evmeter/v1/d-1/status", text, 1)
        assert json.loads(came.get())["args"]["n"] == 3
        came.close()
    finally:
        leader.stop()
        broker.stop()


class _Listener:
    """What comes on a topic, oldest first."""

    def __init__(self, broker, topic, user=None, password=None):
        self.came = []
        self._changed = threading.Condition()
        ready = threading.Event()
        self.client = client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if user:
            client.username_pw_set(user, password)
        client.on_message = self._message
        client.on_subscribe = lambda *_: ready.set()
        client.on_connect = lambda c, _d, _f, reason, _p: c.subscribe(
            topic, 1) if not reason.is_failure else ready.set()
        client.connect(broker.host, broker.port)
        client.loop_start()
        ready.wait(15)

    def _message(self, _client, _data, message):
        with self._changed:
            self.came.append(message.payload)
            self._changed.notify_all()

    def get(self, seconds=15):
        with self._changed:
            self._changed.wait_for(lambda: self.came, seconds)
            return self.came.pop(0) if self.came else None

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def test_a_device_says_and_hears_only_what_is_its_own(tmp_path):
    credentials = Credentials(tmp_path / "broker")
    first = credentials.add("d-1")
    broker = Broker(tmp_path / "broker", kind="mosquitto", credentials=credentials).start()
    second = credentials.add("d-2")  # while it runs
    boss = _Listener(broker, "evmeter/v1/#", COLLECTOR, credentials.collector_password)
    one = _Listener(broker, "evmeter/v1/#", "d-1", first)
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:  # until mosquitto has read its files again
            other = _Listener(broker, "evmeter/v1/d-2/ack", "d-2", second)
            if other.client.is_connected():
                break
            other.close()
        for topic in ("d-2/rec", "d-1/ack", "d-2/ack", "d-1/cmd", "_host/state", "d-1/cfg/set",
                      "d-1/other", "d-1"):
            one.client.publish("evmeter/v1/" + topic, b"forged", 1)
        one.client.publish("evmeter/v1/d-1/rec", b"own", 1)
        assert boss.get() == b"own"
        boss.client.publish("evmeter/v1/d-2/ack", b"for d-2", 1)
        boss.client.publish("evmeter/v1/d-1/ack", b"for d-1", 1)
        assert other.get() == b"for d-2"
        assert one.get() == b"for d-1"
        assert (one.came, other.came) == ([], [])
        for user, password in (("d-1", "wrong"), ("nobody", first), (None, None)):
            refused = _Listener(broker, "#", user, password)
            assert not refused.client.is_connected()
            refused.close()
        other.close()
    finally:
        one.close()
        boss.close()
        broker.stop()
    assert first not in (tmp_path / "broker" / "passwords").read_text()
    assert (tmp_path / "broker" / "passwords").stat().st_mode & 0o77 == 0
    assert credentials.remove("d-1") and not credentials.remove("d-1")


def test_a_password_line_is_what_mosquitto_reads():
    name, rest = password_line("d-1", "secret").split(":")
    assert name == "d-1"
    assert rest.split("$")[1:3] == ["7", "1000"]


def test_shared_subscriptions_are_proven_or_refused(tmp_path):
    broker = Broker(tmp_path / "one", kind="mosquitto").start()
    prove_sharing(Address(broker.host, broker.port))
    broker.stop()
    broker = Broker(tmp_path / "two", kind="amqtt").start()  # knows no MQTT 5
    try:
        with pytest.raises(UserError, match="broker at"):
            prove_sharing(Address(broker.host, broker.port))
    finally:
        broker.stop()


def test_only_a_broker_with_logins_listens_beyond_this_machine(tmp_path):
    with pytest.raises(UserError, match="credentials"):
        Broker(tmp_path, kind="mosquitto", listen="0.0.0.0").start()


def test_devices_reach_it_by_its_name_and_the_backend_from_this_machine(tmp_path, store):
    """A certificate is for the broker's name: what runs beside it needs a way of its own."""
    certificates = Certificates(tmp_path)
    pem = certificates.make("good")
    for tls in (None, (pem, pem)):
        with contextlib.ExitStack() as stack:
            broker, address = backend_command._own(
                stack, tmp_path / "broker", 0, "127.0.0.2", tls, False)
            collector = Collector(store, address, "collector")
            collector.start()
            collector.stop()
            assert (address.host, address.port) == ("127.0.0.1", broker.inside) != (
                "127.0.0.1", broker.port)
            with socket.create_connection(("127.0.0.2", broker.port), 5) as line:
                if tls:
                    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
                    with context.wrap_socket(line, server_hostname="localhost") as secure:
                        assert secure.version().startswith("TLS")
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.3", broker.inside), 5)
            with pytest.raises(UserError, match="is in use"):
                Broker(tmp_path / "other", broker.port, "mosquitto", Credentials(tmp_path / "x"),
                       "127.0.0.2").start()


# -- telling people --

def _note(store, device, **fields):
    with store.engine.begin() as connection:
        return notices.raise_alarm(connection, device.name, "METER", "crit", "no reply",
                                   now_ms(), fields.get("at", now_ms()))


def test_operators_are_told_at_once_and_others_where_nobody_acts(store, device):
    outbox = Outbox(store, Channels(operators=(("webhook", "http://127.0.0.1:1/a"),),
                                    escalation=(("ntfy", "boss"),), escalate_after_s=60))
    number = _note(store, device)
    outbox.escalate()
    outbox.escalate()
    assert [row.target for row in _all(store, t.outbox)] == ["http://127.0.0.1:1/a"]
    with store.engine.begin() as connection:
        connection.execute(sql.update(t.alarms).values(raised_at=now_ms() - 61_000))
    outbox.escalate()
    outbox.escalate()
    assert [row.target for row in _all(store, t.outbox)] == ["http://127.0.0.1:1/a", "boss"]
    assert _all(store, t.alarms)[0].escalated_at
    with store.engine.begin() as connection:
        notices.acknowledge(connection, number, "ann", "", now_ms())
    outbox.escalate()
    assert len(_all(store, t.outbox)) == 2


def test_what_cannot_be_sent_is_tried_again_later(store, device, caplog):
    outbox = Outbox(store, Channels(operators=(("webhook", "http://127.0.0.1:1/a"),
                                               ("webhook", "file:///etc/passwd"),
                                               ("email", "a@example.org"))))
    _note(store, device)
    outbox.escalate()
    assert outbox.round() == 0
    # whoever looks after the backend learns that nobody was told
    told = [record.getMessage() for record in caplog.records if record.name == "evmeter.outbox"]
    assert sorted(text.split(" not sent, tried again: ")[0] for text in told) == [
        "email", "webhook", "webhook"]
    rows = _all(store, t.outbox)
    assert all(row.sent_at is None and row.attempts == 1 and row.next_at > now_ms()
               for row in rows)
    assert [row.error for row in rows][1:] == ["no http or https address",
                                               "no mail server is configured"]


def test_a_driver_is_told_once_of_what_happened(store, device):
    with store.engine.begin() as connection:
        connection.execute(sql.insert(t.alerts).values(
            device="d-1", sid="d-1-000001", channel="ntfy", target="topic-1",
            address="https://x/s/abc", created_at=1))
    payload = json.dumps({**json.loads(device.event(1, "finished_estimated")),
                          "sid": "d-1-000001"}).encode()
    for _ in range(2):
        _add(store, device, ("evt", payload), ("evt", device.event(2, "finished_estimated")))
    (note,) = _all(store, t.outbox)
    assert note.subject == "Fully charged (estimated)"
    assert note.body.endswith("https://x/s/abc")
