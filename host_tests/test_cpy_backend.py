"""Store, messages and collector against a real broker."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from sqlalchemy.exc import OperationalError

from evmeter_tools.backend import messages, mqtt
from evmeter_tools.backend.broker import Broker, find_mosquitto, free_port
from evmeter_tools.backend.collector import Collector
from evmeter_tools.backend.leader import Leader
from evmeter_tools.backend.mqtt import Address
from evmeter_tools.backend.sessions import balance, device_report, missing_numbers
from evmeter_tools.backend.store import CONFLICT, REPEATED, STORED, Entry, Store
from evmeter_tools.cli import main
from evmeter_tools.errors import UserError
from fakes.device import FakeDevice

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    assert find_mosquitto(), "mosquitto is missing; run 'make setup'"
    running = Broker(tmp_path_factory.mktemp("broker"), kind="mosquitto").start()
    yield running
    running.stop()


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "db.sqlite")
    yield opened
    opened.close()


class _Running:
    """A collector over a store, with an enrolled device at its broker."""

    def __init__(self, broker, store, name, enrolled=True):
        self.device = FakeDevice(name)
        if enrolled:
            store.enrol(name, self.device.key_id, self.device.spki)
        self.collector = Collector(store, Address(broker.host, broker.port), name)
        self.collector.start()
        self.device.start(broker.host, broker.port)

    def stop(self):
        self.device.stop()
        self.collector.stop()


@pytest.fixture
def run(broker, store, request):
    running = _Running(broker, store, "dev-%08x" % zlib.crc32(request.node.name.encode()))
    yield running
    running.stop()


# -- the store by itself --

def _entry(seq, payload=b"one", device="d"):
    return Entry(device, "a1b2c3d4", seq, "evt", "", "plug", payload)


def test_a_number_is_stored_once_and_other_content_is_put_aside(store):
    assert store.add([_entry(1), _entry(2), _entry(1)]) == [STORED, STORED, REPEATED]
    assert store.add([_entry(1), _entry(1, b"other"), _entry(1, b"other")]) == [
        REPEATED, CONFLICT, CONFLICT]
    assert [(row.seq, row.payload) for row in store.rows()] == [(1, b"one"), (2, b"one")]
    assert [row.payload for row in store.quarantined()] == [b"other"]


def test_what_is_contiguous_is_counted_per_device_and_key(store):
    store.add([_entry(seq) for seq in (1, 2, 3, 5)] + [_entry(4, device="e")])
    assert store.contiguous("d", "a1b2c3d4") == 3
    assert store.contiguous("d", "a1b2c3d4", 4) == 5
    assert store.contiguous("e", "a1b2c3d4") == 0
    store.enrol("d", "a1b2c3d4", "aa")
    assert missing_numbers(store, "d") == (4,)
    store.add([_entry(2**32 - 1)])
    assert missing_numbers(store, "d") == (4, *range(6, 10_005))


def test_a_failed_batch_leaves_nothing(store):
    with pytest.raises(AttributeError):
        store.add([_entry(1), None])
    assert store.rows() == []


def test_a_database_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "x").write_text("no database" * 100)
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / "x")
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / "none" / "db.sqlite")
    opened = Store(tmp_path / "newer.sqlite")
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(UserError, match="schema 0099"):
        Store(tmp_path / "newer.sqlite")


def test_a_key_cannot_be_replaced(store):
    store.enrol("d", "a1b2c3d4", "aa")
    store.enrol("d", "a1b2c3d4", "aa")
    with pytest.raises(UserError, match="another key"):
        store.enrol("d", "a1b2c3d4", "bb")
    assert store.trusted() == {("d", "a1b2c3d4"): "aa"}


# -- messages --

@pytest.mark.parametrize(("payload", "word"), [
    (b"", "JSON"), (b"{", "JSON"), (b"[]", "version 1"), (b'{"v":2}', "version 1"),
    (b'{"v":1}', "k must"), (b'{"v":1,"k":"A1B2C3D4"}', "k must"),
    (b'{"v":1,"k":"a1b2c3d4","seq":0}', "seq"), (b'{"v":1,"k":"a1b2c3d4","seq":true}', "seq"),
    (b'{"v":1,"k":"a1b2c3d4","seq":"1"}', "seq"), (b'{"v":1,"k":"a1b2c3d4","seq":1.0}', "seq"),
    (b'{"v":1,"k":"a1b2c3d4","seq":4294967296}', "seq"),
    (b'{"v":1,"k":"a1b2c3d4","seq":NaN}', "JSON"),
    (b'{"v":1,"k":"a1b2c3d4","seq":1}', "sid"), (b"\xff\xfe", "JSON"),
    (b"[" * 5000, "JSON"), (b" " * 9000, "allowed"),
    (b'{"v":1,"k":"ffffffff","seq":1,"sid":""}', "never enrolled"),
])
def test_what_cannot_be_attributed_is_refused(payload, word):
    with pytest.raises(messages.MessageError, match=word):
        messages.read("d", "evt", payload, {("d", "a1b2c3d4"): "00"})


def test_topics_of_others_are_refused():
    assert messages.split_topic("evmeter/v1/a-1/rec") == ("a-1", "rec")
    for topic in ("evmeter/v1/_host/state", "evmeter/v1//rec", "evmeter/v2/a/rec", "x",
                  "evmeter/v1/%s/rec" % ("a" * 21), "evmeter/v1/a b/rec"):
        with pytest.raises(messages.MessageError):
            messages.split_topic(topic)


# -- the collector --

def test_200_messages_are_stored_and_confirmed(run, store):
    device = run.device
    for seq in range(1, 201):
        device.send("rec" if seq % 10 == 0 else "evt",
                    device.record(seq) if seq % 10 == 0 else device.event(seq))
    assert device.wait_for(lambda: device.cum() == 200)
    assert [row.seq for row in store.rows(device.name)] == list(range(1, 201))
    assert not device.bad()
    assert all(row.verdict == "ok" for row in store.rows(device.name))


def test_repeats_are_confirmed_again_and_conflicts_put_aside(run, store):
    device = run.device
    device.send("evt", device.event(1))
    assert device.wait_for(lambda: device.cum() == 1)
    count = len(device.acks)
    device.send("evt", device.event(1))
    assert device.wait_for(lambda: len(device.acks) > count)
    device.send("evt", device.event(1, "close"))
    assert device.wait_for(lambda: 1 in device.bad())
    assert "another content" in device.bad()[1]
    assert [json.loads(row.payload)["ev"] for row in store.rows(device.name)] == ["charging"]
    assert len(store.quarantined()) == 1


def test_numbers_out_of_order_are_selected_until_the_gap_closes(run):
    device = run.device
    for seq in (1, 2, 4, 5):
        device.send("evt", device.event(seq))
    assert device.wait_for(lambda: any(5 in ack["sel"] for ack in device.acks))
    assert device.cum() == 2
    device.send("evt", device.event(3))
    assert device.wait_for(lambda: device.cum() == 5)


def test_forged_records_are_marked_and_confirmed_as_bad(run, store):
    device = run.device
    device.send("rec", device.record(1))
    device.send("rec", device.record(2, broken=True))
    other = FakeDevice(device.name)
    other.key_id = device.key_id
    device.send("rec", other.record(3))
    assert device.wait_for(lambda: device.cum() == 3)
    assert sorted(device.bad()) == [2, 3]
    assert [row.verdict for row in store.rows(device.name)] == ["ok", "bad", "bad"]
    assert not device_report(store, device.name).ok


def test_an_unknown_key_gets_no_answer_until_it_is_enrolled(broker, store):
    run = _Running(broker, store, "stranger", enrolled=False)
    try:
        device = run.device
        device.send("evt", device.event(1))
        assert device.wait_for(lambda: device.pubacks == 1)
        assert device.quiet(0.6) == 0
        assert store.rows("stranger") == []
        assert any("never enrolled" in why for _, why in run.collector.refused)
        store.enrol("stranger", device.key_id, device.spki)
        device.send("evt", device.event(1))
        assert device.wait_for(lambda: device.cum() == 1)
    finally:
        run.stop()


def test_malformed_messages_disturb_nobody(run):
    device = run.device
    for payload in (b"", b"\x00" * 100, b"{" * 3000, b"[]", b'{"v":1}', b"x" * 20000):
        device.send("rec", payload)
        device.send("status", payload)
    device.send("evt", device.event(1))
    assert device.wait_for(lambda: device.cum() == 1)


class _FailingStore:
    """A store whose commits fail until told otherwise."""

    def __init__(self, store):
        self._store = store
        self.fails = True

    def add(self, entries):
        if self.fails:
            raise OperationalError("disk full", None, Exception("disk full"))
        return self._store.add(entries)

    def __getattr__(self, name):
        return getattr(self._store, name)


def test_nothing_is_confirmed_before_the_commit(broker, store):
    failing = _FailingStore(store)
    run = _Running(broker, failing, "unlucky")
    try:
        device = run.device
        device.send("evt", device.event(1))
        assert device.quiet(1.5) == 0
        assert store.rows("unlucky") == []
        failing.fails = False
        assert device.wait_for(lambda: device.cum() == 1)
        assert len(store.rows("unlucky")) == 1
    finally:
        run.stop()


class _DeafStore(_FailingStore):
    """One that commits, and cannot be asked afterwards until told otherwise."""

    def add(self, entries):
        return self._store.add(entries)

    def reached(self, *args):
        if self.fails:
            raise OperationalError("gone away", None, Exception("gone away"))
        return self._store.reached(*args)


def test_a_database_that_goes_away_after_the_commit_ends_nothing(broker, store):
    deaf = _DeafStore(store)
    run = _Running(broker, deaf, "deaf")
    try:
        device = run.device
        device.send("evt", device.event(1))
        assert device.quiet(1.5) == 0
        assert len(store.rows("deaf")) == 1
        deaf.fails = False
        assert device.wait_for(lambda: device.cum() == 1)
        assert len(store.rows("deaf")) == 1 and not store.quarantined()
    finally:
        run.stop()


def test_a_message_that_breaks_the_reader_is_refused_alone(run, monkeypatch):
    device, read = run.device, messages.read

    def breaks(*args):
        entry = read(*args)
        if entry.seq == 2:
            raise KeyError("a defect")
        return entry

    monkeypatch.setattr(messages, "read", breaks)
    for seq in (1, 2, 3):
        device.send("evt", device.event(seq))
    assert device.wait_for(lambda: device.acks and device.acks[-1]["sel"] == [3])
    assert device.cum() == 1
    assert [why for _, why in run.collector.refused] == ["KeyError"]


@pytest.mark.parametrize("topic", [
    "evmeter/v1/a\n2026-01-01 ERROR all is lost/evt", "evmeter/v1/a/\r\x1b[2Jgone",
    "evmeter/v1/\u202eb/evt", "\n" * 200])
def test_no_topic_writes_a_line_of_its_own_into_the_log(store, caplog, topic):
    collector = Collector(store, Address("127.0.0.1", 1), "log")
    collector._on_message(1, topic, b"{}")
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.isprintable() and line.startswith("refused from ")
    assert len(next(iter(collector.refused))[0]) <= 80


def test_what_an_earlier_connection_brought_is_not_acknowledged_to_the_broker(store):
    collector = Collector(store, Address("127.0.0.1", 1), "numbers")
    device = FakeDevice("numbers")
    store.enrol("numbers", device.key_id, device.spki)
    told = []
    collector._client = SimpleNamespace(ack=lambda mid, qos: told.append(mid),
                                        publish=lambda topic, text, qos: told.append(topic))
    collector._connections = 2
    collector._take([
        (connection, mid, messages.read("numbers", "evt", device.event(mid), store.trusted()))
        for connection, mid in ((1, 1), (2, 2))])
    assert told == [2, "evmeter/v1/numbers/ack"]
    assert [row.seq for row in store.rows("numbers")] == [1, 2]


class _Contended(deque):
    """What another thread adds to while it is walked through, once."""

    races = 1

    def __iter__(self):
        for one in super().__iter__():
            if self.races:
                self.races -= 1
                self.append(one)
            yield one


def test_the_connection_outlives_what_goes_wrong_in_its_thread(tmp_path):
    broker = Broker(tmp_path / "broker", kind="mosquitto").start()
    client = mqtt.client(Address(broker.host, broker.port), "outlives", manual_ack=True)
    heard, changed = [], threading.Condition()

    def note(what):
        with changed:
            heard.append(what)
            changed.notify_all()

    def until(*what):
        with changed:
            assert changed.wait_for(lambda: heard == list(what), 30), heard
            heard.clear()

    def on_message(_client, _data, message):
        note(message.payload)
        if message.payload == b"1":
            raise KeyError("a defect")

    client.on_message = on_message
    client.on_subscribe = lambda *_: note("subscribed")
    client.on_disconnect = lambda *_: note("gone")
    try:
        mqtt.connect(client, Address(broker.host, broker.port),
                     lambda made: made.subscribe("evmeter/v1/outlives", 1))
        until("subscribed")
        client.publish("evmeter/v1/outlives", b"1", 1)
        client.publish("evmeter/v1/outlives", b"2", 1)
        until(b"1", b"2")
        broker.kill()
        until("gone")
        waiting = _Contended([{"command": 0x40, "mid": 1, "qos": 0, "pos": 0, "to_process": 4,
                               "packet": b"\x40\x02\x00\x01", "info": None}])
        client._out_packet = waiting
        broker.start()
        until("subscribed")
        assert not waiting.races
        client.publish("evmeter/v1/outlives", b"3", 1)
        until(b"3")
    finally:
        mqtt.close(client)
        broker.stop()


class _EagerCollector(Collector):
    """The wrong design: says that it has stored before it has."""

    def _take(self, batch):
        for *_, entry in batch:
            self._confirm([entry], [STORED])
        super()._take(batch)


def test_the_check_above_would_catch_an_early_confirmation(broker, store):
    failing = _FailingStore(store)
    device = FakeDevice("eager")
    store.enrol("eager", device.key_id, device.spki)
    collector = _EagerCollector(failing, Address(broker.host, broker.port), "eager")
    collector.start()
    try:
        device.start(broker.host, broker.port)
        device.send("evt", device.event(1))
        assert device.wait_for(lambda: device.acks)
        assert store.rows("eager") == []
    finally:
        failing.fails = False
        device.stop()
        collector.stop()


def _command(*arguments):
    return [sys.executable, "-m", "evmeter_tools.cli", *arguments]


_ENV = dict(os.environ, PYTHONPATH=str(ROOT / "tools"))


def test_a_collector_killed_in_mid_stream_loses_nothing(broker, tmp_path):
    database = tmp_path / "killed.sqlite"
    device = FakeDevice("survivor")
    store = Store(database)
    store.enrol("survivor", device.key_id, device.spki)
    command = _command("backend", "run", "--db", str(database), "--web-port", "0", "--broker",
                       "%s:%d" % (broker.host, broker.port))
    first = subprocess.Popen(command, env=_ENV, stdout=subprocess.PIPE, text=True)
    first.stdout.readline()
    device.start(broker.host, broker.port)
    sent = {seq: device.event(seq) for seq in range(1, 401)}
    for seq in sent:
        device.send("evt", sent[seq])
        if seq == 150:
            assert device.wait_for(lambda: device.cum() > 0)
            first.send_signal(signal.SIGKILL)
            first.wait()
    confirmed = device.cum()
    second = subprocess.Popen(command, env=_ENV, stdout=subprocess.PIPE, text=True)
    try:
        second.stdout.readline()
        deadline = time.monotonic() + 30
        while device.cum() < 400 and time.monotonic() < deadline:
            for seq in range(device.cum() + 1, 401):
                device.send("evt", sent[seq])
            device.wait_for(lambda: device.cum() == 400, 2)
        assert device.cum() == 400
        assert 0 < confirmed
        assert [row.seq for row in store.rows("survivor")] == list(range(1, 401))
    finally:
        second.send_signal(signal.SIGINT)
        assert second.wait(15) == 0
        device.stop()
        store.close()


def test_the_host_state_is_retained_and_goes_off_at_the_end(broker, store):
    leader = Leader(store, Address(broker.host, broker.port), "lead")
    leader.start()
    assert leader.leads.wait(15)
    device = FakeDevice("watcher").start(broker.host, broker.port)
    try:
        assert device.wait_for(lambda: device.host and device.host[-1]["online"])
        leader.stop()
        assert device.wait_for(lambda: device.host[-1]["online"] is False)
    finally:
        device.stop()


def test_amqtt_serves_where_there_is_no_mosquitto(tmp_path, store):
    broker = Broker(tmp_path / "amqtt", kind="amqtt").start()
    try:
        assert "amqtt" in broker.notice
        run = _Running(broker, store, "on-amqtt")
        for seq in range(1, 21):
            run.device.send("evt", run.device.event(seq))
        assert run.device.wait_for(lambda: run.device.cum() == 20)
        run.stop()
    finally:
        broker.stop()


@pytest.mark.parametrize(("arguments", "word"), [
    (("backend", "run", "--broker", "127.0.0.1:1"), "no broker"),
    (("backend", "run", "--broker", "nonsense"), "host:port"),
    (("backend", "enrol", "d", "00"), "public key"),
    (("backend", "sessions", "nobody"), "no session"),
    (("backend", "run", "--share", "g"), "SQLite serves one process"),
    (("backend", "run", "--web-listen", "0.0.0.0"), "--tls-cert"),
    (("backend", "run", "--alert", "fax:1"), "CHANNEL:TARGET"),
    (("backend", "run", "--alert", "email:a@b.org"), "needs --smtp"),
    (("backend", "run", "--escalate", "ntfy:topic"), "needs --ntfy"),
    (("backend", "run", "--alert", "webhook:example.org/x"), "https://"),
    (("backend", "run", "--smtp", "mail.example.org"), "host:port"),
    (("backend", "web", "--ntfy", "ntfy.example.org"), "https://"),
    (("backend", "run", "--public-url", "javascript:alert(1)"), "https://"),
    (("backend", "run", "--operator", "none.json"), "none.json"),
    (("backend", "run", "--dir", "/proc/none"), "--dir /proc/none"),
    (("backend", "export", "out.jsonl"), "nothing is stored"),
    (("backend", "export"), "nothing is stored"),
    (("emulate", "meter", "unknown"), "eastron_sdm120"),
    (("emulate", "meter", "--port", "/dev/ttyNONE"), "does not exist"),
    (("emulate", "meter", "--baud", "300"), "allowed"),
    (("bench-rig", "--meter", "/dev/ttyNONE"), "does not exist"),
])
def test_what_the_user_can_put_right_is_one_line_and_exit_code_2(arguments, word, tmp_path):
    if arguments[0] == "backend":
        arguments = (*arguments, "--db", str(tmp_path / "db.sqlite"))
    done = subprocess.run(_command(*arguments), env=_ENV, cwd=tmp_path, capture_output=True,
                          text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert word in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_second_broker_does_not_write_over_the_files_of_the_first(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "mosquitto.conf").write_text("of the first")
    with (folder / "broker.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(
            _command("backend", "run", "--db", str(tmp_path / "x.sqlite"), "--dir", str(folder),
                     "--port", str(free_port()), "--web-port", "0"),
            env=_ENV, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--dir" in done.stderr
    assert (folder / "mosquitto.conf").read_text() == "of the first"


def test_a_copy_or_an_export_that_cannot_be_written_says_so_in_one_line(tmp_path):
    device = FakeDevice("d")
    store = Store(tmp_path / "x.sqlite")
    store.enrol("d", device.key_id, device.spki)
    store.add([messages.read("d", "rec", device.record(1), store.trusted())])
    store.close()

    def run(*arguments):
        return subprocess.run(_command("backend", *arguments, "--db", str(tmp_path / "x.sqlite")),
                              env=_ENV, cwd=tmp_path, capture_output=True, text=True, check=False,
                              timeout=60)

    for what in ("backup", "export"):
        done = run(what, "no-such-folder/copy")
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "no-such-folder/copy" in done.stderr
    printed = run("export")  # as README has it: > records.jsonl
    assert printed.returncode == 0
    assert run("export", "out.jsonl").returncode == 0
    assert printed.stdout == (tmp_path / "out.jsonl").read_text()


@pytest.mark.parametrize("form", ["hex", "HEX", "hex in lines", "PEM"])
def test_a_key_is_enrolled_in_each_form_that_is_taken_for_one(tmp_path, monkeypatch, form):
    device = FakeDevice("d")
    spki = device.spki
    text = {"hex": spki, "HEX": spki.upper(), "hex in lines": spki[:90] + "\n" + spki[90:],
            "PEM": serialization.load_der_public_key(bytes.fromhex(spki)).public_bytes(
                serialization.Encoding.PEM,
                serialization.PublicFormat.SubjectPublicKeyInfo).decode()}[form]
    db = tmp_path / "x.sqlite"
    monkeypatch.setattr(sys, "argv", ["evmeter", "backend", "enrol", "d", "--db", str(db),
                                      "--no-login", "--", text])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    store = Store(db)
    assert store.trusted() == {("d", device.key_id): spki}
    store.close()


def test_a_port_in_use_is_named(broker, tmp_path):
    with pytest.raises(UserError, match=str(broker.port)):
        Broker(tmp_path, broker.port).start()


def test_the_balance_adds_up_from_events(store):
    device = FakeDevice("d")
    store.enrol("d", device.key_id, device.spki)
    events = (("boot", {"reg_mwh": 5000, "out_mwh": 0}),
              ("open", {"reg_mwh": 7000, "out_mwh": 2000}),
              ("complete", {"begin_mwh": 7000, "reg_mwh": 19000, "gap_mwh": 3000,
                            "jump_mwh": 0}),
              ("boot", {"reg_mwh": 20000, "out_mwh": 1000}))
    store.add([messages.read("d", "evt", device.event(seq, name, **fields), store.trusted())
               for seq, (name, fields) in enumerate(events, 1)])
    found = balance(store, "d")
    assert (found.first_mwh, found.last_mwh, found.sessions_mwh, found.outside_mwh) == (
        5000, 20000, 12000, 3000)
    assert found.gap_mwh == 3000
    assert found.exact


def test_an_audit_entry_counts_by_its_signature():
    device, other = FakeDevice("d"), FakeDevice("d")
    trusted = {("d", device.key_id): device.spki}
    entry = device.log(1, "meter_rebase", old_mwh=5, new_mwh=1000, jump_mwh=995)
    assert messages.read("d", "log", entry, trusted).verdict == "ok"
    cases = (
        (entry.replace(b'"new_mwh": 1000', b'"new_mwh": 1001'), "does not belong"),
        (entry[:entry.index(b', "sg"')] + b"}", "is not signed"),
        (entry.replace(b'"sg": "30', b'"sg": "31'), "not the DER"),
        (other.log(1, "meter_rebase").replace(other.key_id.encode(), device.key_id.encode()),
         "does not belong"),
    )
    for payload, why in cases:
        found = messages.read("d", "log", payload, trusted)
        assert found.verdict == "bad" and why in found.why, (payload, found)
