"""PostgreSQL: the same store, and three replicas of which one and the broker are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from evmeter_tools.backend import messages
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.broker import Broker, free_port
from evmeter_tools.backend.gaps import Gaps
from evmeter_tools.backend.leader import Leader
from evmeter_tools.backend.live import Live
from evmeter_tools.backend.mqtt import Address
from evmeter_tools.backend.sessions import missing_numbers
from evmeter_tools.backend.store import CONFLICT, REPEATED, STORED, Store
from evmeter_tools.insight.facts import load
from evmeter_tools.insight.local import LocalTime
from evmeter_tools.insight.reports import REPORTS, View, report
from evmeter_tools.paths import BUILD
from evmeter_tools.sample.device import SampleDevice
from evmeter_tools.web import metrics
from evmeter_tools.web.insight import WHOLE, Reports
from fakes.device import FakeDevice
from fakes.postgres import Postgres

ROOT = Path(__file__).resolve().parents[1]
_ENV = dict(os.environ, PYTHONPATH=str(ROOT / "tools"))
_DEVICES = 20
_RECORDS = 200
_WINDOW = 8
_AGAIN_S = 2
_LIMIT_S = 120


@pytest.fixture(scope="module")
def server():
    assert (BUILD / "bin" / "postgres").exists(), "PostgreSQL is missing; run 'make setup'"
    running = Postgres()
    yield running
    running.stop()


@pytest.fixture
def store(server):
    opened = Store(server.url)
    yield opened
    with opened.engine.begin() as connection:
        for table in t.meta.tables.values():
            connection.execute(sql.delete(table))
    opened.close()


def test_the_migrations_lead_to_the_same_tables(store):
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), t.meta) == []


def test_store_live_and_gaps_hold_on_postgresql_too(store):
    device = FakeDevice("d-1")
    store.enrol("d-1", device.key_id, device.spki)
    sid = "d-1-000001"
    parts = [("rec", device.record(1, "begin", 5_000_000, sid)), ("evt", device.event(2)),
             ("rec", device.record(4, "complete", 6_000_000, sid)), ("evt", device.event(2)),
             ("evt", device.event(2, "other"))]
    entries = [messages.read("d-1", *part, store.trusted()) for part in parts]
    assert store.add(entries) == [STORED, STORED, STORED, REPEATED, CONFLICT]
    assert store.add(entries)[:2] == [REPEATED, REPEATED]
    assert store.rows(sid=sid)[0].payload == parts[0][1]
    assert len(store.quarantined()) == 1
    Gaps(store, 0).look()
    Live(store).take([
        ("d-1", "avail", b"online", 10), ("d-1", "status", b'{"n": 1, "st": "idle"}', 11),
        ("d-1", "alarm/METER", b'{"sev": "crit", "text": "gone", "on_ts": 1}', 12)])
    with store.engine.connect() as connection:
        (session,) = connection.execute(sql.select(t.sessions)).all()
        assert (session.state, session.energy_mwh) == ("complete", 1_000_000)
        (gap,) = connection.execute(sql.select(t.gaps)).all()
        assert (gap.first, gap.last) == (3, 3)
        assert connection.execute(sql.select(t.states.c.state)).scalar() == "available"
        assert set(connection.execute(sql.select(t.alarms.c.code)).scalars()) == {
            "RECORD_CONFLICT", "RECORD_GAP", "METER"}


def test_of_two_processes_one_leads(store, server, tmp_path):
    broker = Broker(tmp_path, kind="mosquitto").start()
    other = Store(server.url)
    address = Address(broker.host, broker.port)
    leaders = [Leader(store, address, "l0"), Leader(other, address, "l1")]
    try:
        leaders[0].start()
        assert leaders[0].leads.wait(15)
        leaders[1].start()
        assert not leaders[1].leads.wait(1.5)
        leaders[0].stop()
        assert leaders[1].leads.wait(15)
    finally:
        leaders[1].stop()
        other.close()
        broker.stop()


# -- the campaign --

class _Sender(FakeDevice):
    """A device that sends its records in a window and again until each is confirmed."""

    def __init__(self, name):
        super().__init__(name)
        self.frames = {seq: ("rec", self.record(seq)) if seq % 10 == 0 else
                       ("evt", self.event(seq)) for seq in range(1, _RECORDS + 1)}
        self._sent = {}
        self.transmissions = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._deliver, daemon=True)

    def start(self, host, port):
        super().start(host, port)
        self._client.reconnect_delay_set(1, 1)
        self._thread.start()

    def stop(self):
        self._over.set()
        self._thread.join()
        super().stop()

    def confirmed(self):
        """The numbers that no acknowledgement has left out."""
        acks = list(self.acks)
        cum = max([ack["cum"] for ack in acks], default=0)
        named = {seq for ack in acks for seq in ack["sel"]}
        return set(range(1, cum + 1)) | (named & set(self.frames))

    def _deliver(self):
        while not self._over.is_set():
            open_ = sorted(set(self.frames) - self.confirmed())[:_WINDOW]
            now = time.monotonic()
            for seq in open_:
                if now - self._sent.get(seq, -9) < _AGAIN_S or not self._client.is_connected():
                    continue
                stream, payload = self.frames[seq]
                self._sent[seq] = now
                if self._client.publish("evmeter/v1/%s/%s" % (self.name, stream), payload,
                                        1).rc == paho.MQTT_ERR_SUCCESS:
                    self.transmissions += 1
            self._over.wait(0.02)


class _Replica:
    def __init__(self, url, broker, log):
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evmeter_tools.cli", "backend", "run", "--db", url,
             "--share", "fleet", "--web-port", "0", "--gap-wait-s", "5", "--broker",
             "%s:%d" % (broker.host, broker.port)],
            env=_ENV, stdout=subprocess.PIPE, stderr=self._log, text=True)
        self._path = log

    def wait(self):
        """Until it collects."""
        line = self._process.stdout.readline()
        assert line.startswith("collecting"), (line, self._path.read_text())

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
        self._process.stdout.close()
        self._log.close()


def _faults(store, devices):
    """What a device has sent and the database does not hold, byte for byte, once."""
    faults = []
    for device in devices:
        held = [(row.seq, row.payload) for row in store.rows(device.name)]
        sent = [(seq, payload) for seq, (_, payload) in sorted(device.frames.items())]
        if held != sent:
            faults.append("%s: %d stored" % (device.name, len(held)))
        if missing_numbers(store, device.name):
            faults.append("%s: gaps" % device.name)
        if device.bad() or device.confirmed() != set(device.frames):
            faults.append("%s: not confirmed" % device.name)
    faults += ["%s: in quarantine" % row.device for row in store.quarantined()]
    return faults


def _share_done(devices):
    return sum(len(device.confirmed()) for device in devices) / (_DEVICES * _RECORDS)


def test_reports_hold_on_postgresql_too(store):
    begin_ms = 1_774_656_000_000
    device = SampleDevice("d-1", begin_ms)
    device.run(4000).plug().charge(3600).cut(20, 2000).phase("finished_estimated", 900).unplug()
    device.alarm("METER_LOST", True).run(1800)
    device.store(store)
    live = Live(store)
    live.take([("d-1", "avail", b"online", begin_ms),
               ("d-1", "status", b'{"n": 1, "st": "charging", "cp": "C", "i_max_ma": 16000}',
                begin_ms + 1)])
    for number in range(2):
        live.take([("d-1", "tel", b'{"u_mv": [230000], "i_ma": [9000], "p_mw": 2070000}',
                    begin_ms + 2000 + number)])
    live.take([("d-1", "avail", b"offline", begin_ms + 5_000_000)])
    with store.engine.begin() as connection:
        connection.execute(sql.insert(t.chargers).values(device="d-1", rated_w=11_000))
    reports = Reports(store)
    period_ms = begin_ms - 86_400_000, begin_ms + 86_400_000
    view = View(LocalTime("Europe/Berlin"), *period_ms, {"d-1": 11_000_000})
    facts = load(store, period_ms=period_ms)
    for name in REPORTS:
        asked = reports.wanted(name, "Europe/Berlin", *period_ms)
        assert reports.waiting(asked) == 0
        found = reports.whole(asked) if name in WHOLE else reports.part(asked, 9)[0]
        assert found.json() == report(name, facts, view).json(), name
        assert found.rows, name
    assert b'evmeter_sessions_total{device="d-1"} 1.0' in metrics.text(store)


def _wait(condition, what):
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_killed_replica_and_a_killed_broker_cost_no_record(store, server, tmp_path, capsys):
    port = free_port()
    broker = Broker(tmp_path / "broker", port, kind="mosquitto").start()
    devices = [_Sender("dev-%02d" % number) for number in range(_DEVICES)]
    for device in devices:
        store.enrol(device.name, device.key_id, device.spki)
    replicas = []
    try:
        for number in range(3):
            replicas.append(_Replica(server.url, broker, tmp_path / ("replica%d.log" % number)))
        for replica in replicas:
            replica.wait()
        begun = time.monotonic()
        for device in devices:
            device.start(broker.host, broker.port)
        _wait(lambda: _share_done(devices) > 0.2, "a fifth is confirmed")
        replicas[0].kill()  # the one that leads
        _wait(lambda: _share_done(devices) > 0.5, "half is confirmed")
        broker.kill()
        time.sleep(0.5)
        broker = Broker(tmp_path / "broker", port, kind="mosquitto").start()
        _wait(lambda: _share_done(devices) == 1, "everything is confirmed")
        seconds = time.monotonic() - begun
        assert _faults(store, devices) == []
        _wait(lambda: not _open_gaps(store), "no gap is left")
    finally:
        for device in devices:
            device.stop()
        for replica in replicas:
            replica.stop()
        broker.stop()
    with capsys.disabled():
        print("\n  3 replicas, 1 and the broker killed: %d generated, %d sent, %d stored, %.1f s"
              % (_DEVICES * _RECORDS, sum(device.transmissions for device in devices),
                 len(store.rows()), seconds))
    # what the check above would see
    with store.engine.begin() as connection:
        connection.execute(sql.delete(t.records).where(
            t.records.c.device == "dev-03", t.records.c.seq == 77))
        connection.execute(sql.update(t.records).where(
            t.records.c.device == "dev-05", t.records.c.seq == 9).values(payload=b"x"))
    devices[7].acks = [ack for ack in devices[7].acks if ack["cum"] < 150]
    assert [fault.partition(":")[0] for fault in _faults(store, devices)] == [
        "dev-03", "dev-03", "dev-05", "dev-07"]


def _open_gaps(store):
    with store.engine.connect() as connection:
        return connection.execute(sql.select(t.gaps).where(t.gaps.c.closed_at.is_(None))).all()
