"""A fleet on this machine: broker, collector, firmware processes, devices that replay; and what
the backend has of them at the end."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time

import sqlalchemy as sql

from evmeter_tools.backend import mqtt
from evmeter_tools.backend.broker import Broker, find_mosquitto
from evmeter_tools.backend.credentials import COLLECTOR, Credentials
from evmeter_tools.backend.sessions import balance, device_report
from evmeter_tools.backend.store import Store, now_ms
from evmeter_tools.backend.tables import gaps, keys, quarantine, records
from evmeter_tools.bench.stand import end
from evmeter_tools.errors import UserError
from evmeter_tools.fleet.recorded import record
from evmeter_tools.host_device import HostDevice, micropython
from evmeter_tools.paths import ROOT

REPLAYER = "fleet"  # logs in for all the devices that replay
_END_S = 15
_READY_S = 120
_QUIET_S = 5  # without a new frame
_SETTLE_S = 180  # for the firmware's last frames once every vehicle has left
_NICE = 19  # a device has a chip of its own: it must not take the backend's turn
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ACL = """
user {0}
topic write evmeter/v1/+/avail
topic write evmeter/v1/+/status
topic write evmeter/v1/+/rec
topic write evmeter/v1/+/evt
topic write evmeter/v1/+/ivl
topic write evmeter/v1/+/log
topic read evmeter/v1/#
"""


def rss_mib(pids):
    """Resident memory of processes, MiB; of those that live."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError), open("/proc/%d/statm" % pid) as file:
            pages += int(file.read().split()[1])
    return pages * _PAGE / 2**20


class _Child:
    """A process of ours that tells JSON lines; `told` is the newest one. Ctrl-C does not reach
    it: it is ended in order."""

    def __init__(self, module, arguments, log, password=""):
        env = dict(os.environ, PYTHONPATH=str(ROOT / "tools"), EVMETER_BROKER_PASSWORD=password)
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], env=env, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        self.told = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.told = json.loads(line)

    def say(self, text):
        """One line on its standard input."""
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def check(self):
        """Raise UserError where it has died of something."""
        if self.process.poll():
            raise UserError("a part of the fleet ended; see %s" % self._log)

    def stop(self):
        """End it: standard input closed, else SIGKILL."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Watch:
    """What firmware devices say: who is there, and how far each is acknowledged."""

    def __init__(self, address, names):
        self.online = set()
        self.head = dict.fromkeys(names, 0)
        self.confirmed = dict.fromkeys(names, 0)
        self.complete = 0
        self._seen = set()
        self._client = mqtt.client(address, "fleet-watch")
        self._client.on_message = self._message
        mqtt.connect(self._client, address, lambda made: made.subscribe(
            [("%s%s/#" % (mqtt.ROOT, name), 0) for name in names]))

    def _message(self, _client, _data, message):
        name, topic = message.topic.split("/", 3)[2:]
        if topic == "avail":
            (self.online.add if message.payload == b"online" else self.online.discard)(name)
        elif topic in ("rec", "evt", "ivl", "log"):
            found = json.loads(message.payload)
            self.head[name] = max(self.head[name], found["seq"])
            if found.get("kind") == "complete" and (name, found["seq"]) not in self._seen:
                self._seen.add((name, found["seq"]))
                self.complete += 1
        elif topic == "ack":
            self.confirmed[name] = max(self.confirmed[name], json.loads(message.payload)["cum"])

    def settled(self):
        """Whether everything that was seen is acknowledged."""
        return all(self.confirmed[name] >= head > 0 for name, head in self.head.items())

    def close(self):
        """End the subscription."""
        mqtt.close(self._client)


class Fleet:
    """`firmware` processes and `devices` that replay, in `folder`; a context manager."""

    def __init__(self, folder, firmware, devices, *, sessions=2, charge_s=30, spread_s=60):
        if not find_mosquitto():
            raise UserError("mosquitto was not found; run 'make setup' or install mosquitto")
        if firmware and micropython() is None:
            raise UserError("no MicroPython in build/bin; run 'make setup'")
        self.folder = folder
        self.database = folder / "fleet.sqlite"
        self.names = ["fw-%03d" % number for number in range(1, firmware + 1)]
        self._count = devices
        self._sessions, self._charge_s, self._spread_s = sessions, charge_s, spread_s
        self.hashes = {}  # device -> SHA-256 of each frame that it replays
        self._stack = contextlib.ExitStack()
        self._devices = []
        self._collector = None
        self.replay = self.stations = self.watch = None
        self._broker = None
        self._start_mwh = {}
        self.rss = {}

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    # -- the start --

    def _start(self):
        credentials = Credentials(self.folder / "broker")
        passwords = {name: credentials.add(name) for name in (*self.names, REPLAYER)}
        # one connection may speak for many devices: only this fleet's broker permits it
        with credentials.acl.open("a") as file:
            file.write(_ACL.format(REPLAYER))
        self._broker = Broker(self.folder / "broker", kind="mosquitto",
                              credentials=credentials).start()
        self._stack.callback(self._broker.stop)
        self._enrol(passwords)
        self._start_collector(credentials.collector_password)
        address = mqtt.Address(self._broker.host, self._broker.port, REPLAYER,
                               passwords[REPLAYER])
        if self.names:
            self.watch = _Watch(address, self.names)
            self._stack.callback(self.watch.close)
            self.stations = self._child("stations", (
                str(self.folder), *self.names, "--sessions", str(self._sessions),
                "--charge", str(self._charge_s)))
            self._await(lambda: self.stations.told, "the meters do not answer")
            self._start_mwh = self.stations.told["register_mwh"]
        if self._count:
            self.replay = self._child("replay", (
                str(self.folder / "recorded.jsonl"), self._broker.host, str(self._broker.port),
                "--user", REPLAYER, "--spread", str(self._spread_s)), passwords[REPLAYER])

    def _child(self, module, arguments, password=""):
        made = _Child("evmeter_tools.fleet." + module, arguments, self.folder / (module + ".log"),
                      password)
        self._stack.callback(made.stop)
        return made

    def _await(self, condition, what):
        deadline = time.monotonic() + _READY_S
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise UserError("%s; see %s" % (what, self.folder))
            time.sleep(0.1)

    def _enrol(self, passwords):
        rows = []
        with (self.folder / "recorded.jsonl").open("w") as file:
            for number in range(1, self._count + 1):
                found = record(number)
                file.write(found.line())
                rows.append((found.name, found.key_id, found.spki))
                self.hashes[found.name] = [hashlib.sha256(payload).hexdigest()
                                           for _, payload in found.frames]
        for name in self.names:
            device = HostDevice(self.folder / name, nice=_NICE)
            device.write_config({
                "id": name,
                "meter": {"profile": "eastron_sdm120", "p_max_w": 22000, "period_ms": 2000},
                "mqtt": {"host": self._broker.host, "port": self._broker.port, "tls": "off",
                         "user": name, "password": passwords[name], "telemetry_s": 10},
                "session": {"finished_after_s": 120, "checkpoint_s": 60},
                "clock": {"battery": True}, "pilot": {"front_end": "fe3"}})
            known = device.provision()
            rows.append((known["id"], known["k"], known["spki"]))
            self._devices.append(device)
        store = Store(self.database)
        with store.engine.begin() as connection:
            connection.execute(sql.insert(keys), [
                {"device": name, "key_id": key_id, "spki": spki, "enrolled_at": now_ms()}
                for name, key_id, spki in rows])
        store.close()

    def _start_collector(self, password):
        env = dict(os.environ, PYTHONPATH=str(ROOT / "tools"), EVMETER_BROKER_PASSWORD=password)
        log = self.folder / "backend.log"
        with log.open("ab") as file:
            self._collector = subprocess.Popen(
                [sys.executable, "-m", "evmeter_tools.cli", "backend", "run", "--db",
                 str(self.database), "--broker", "%s:%d" % (self._broker.host, self._broker.port),
                 "--broker-user", COLLECTOR, "--web-port", "0"], env=env,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True)
        self._stack.callback(self._end_collector)
        self._await(lambda: b"collecting" in log.read_bytes(), "the collector does not start")

    def _end_collector(self):
        end(self._collector)

    def switch_on(self, number):
        """Start firmware process `number`, from 0."""
        device = self._devices[number]
        device.start()
        self._stack.callback(device.cut_power)

    # -- while it runs --

    def check(self):
        """Raise UserError where a part has died."""
        if self._collector.poll() is not None:
            raise UserError("the collector ended; see %s" % (self.folder / "backend.log"))
        for child in (self.replay, self.stations):
            if child:
                child.check()
        for name, device in zip(self.names, self._devices, strict=False):
            device.follow()
            words = device.last_words()
            if words:
                raise UserError("the firmware %s ended: %s" % (name, words))

    def note_memory(self):
        """Keep the most memory that was seen, by part, MiB."""
        parts = {"firmware": [device.pid for device in self._devices if device.running()],
                 "collector": [self._collector.pid], "broker": [self._broker.pid]}
        for name, child in (("replay", self.replay), ("stations", self.stations)):
            if child:
                parts[name] = [child.process.pid]
        for name, pids in parts.items():
            self.rss[name] = max(self.rss.get(name, 0), round(rss_mib(pids), 1))

    def replayed(self):
        """Whether every recorded frame is acknowledged."""
        return not self.replay or bool(self.replay.told.get("over"))

    def driven(self):
        """Whether every vehicle has come and gone."""
        return not self.names or (
            self.stations.told["ended"] >= len(self.names) * self._sessions)

    def settle(self, limit_s=_SETTLE_S):
        """Unplug every vehicle and wait until the firmware's frames are acknowledged; returns
        whether they all are."""
        if not self.names:
            return True
        self.stations.say("")
        begun = since = time.monotonic()
        quiet = None
        while time.monotonic() - begun < limit_s:
            self.check()
            if not (self.stations.told["plugged"] == 0 and self.watch.settled()
                    and self.watch.head == quiet):
                quiet, since = dict(self.watch.head), time.monotonic()
            elif time.monotonic() - since > _QUIET_S:
                return True
            time.sleep(0.2)
        return False

    # -- at the end --

    def judge(self):
        """What the database has, against what was sent: a dict of counts."""
        store = Store(self.database)
        try:
            return self._judge(store)
        finally:
            store.close()

    def _judge(self, store):
        held = {}
        found = {"stored": 0, "verified": 0, "bad": 0}
        first = last = None
        query = sql.select(records.c.device, records.c.seq, records.c.stream, records.c.sha256,
                           records.c.verdict, records.c.received_at).order_by(
                               records.c.device, records.c.seq)
        with store.engine.connect() as connection:
            for row in connection.execute(query):
                held.setdefault(row.device, []).append((row.seq, row.sha256))
                found["stored"] += 1
                found["verified"] += row.stream in ("rec", "log") and row.verdict == "ok"
                found["bad"] += row.verdict != "ok"
                if row.device in self.hashes:
                    first = min(first or row.received_at, row.received_at)
                    last = max(last or row.received_at, row.received_at)
            found["quarantined"] = connection.execute(
                sql.select(sql.func.count()).select_from(quarantine)).scalar()
            found["open_gaps"] = connection.execute(
                sql.select(sql.func.count()).select_from(gaps).where(
                    gaps.c.closed_at.is_(None))).scalar()
        found["gaps"] = found["doubled"] = found["altered"] = 0
        for device, rows in held.items():
            numbers = [seq for seq, _ in rows]
            found["gaps"] += numbers[-1] - len(set(numbers))
            found["doubled"] += len(numbers) - len(set(numbers))
            sent = self.hashes.get(device)
            if sent:
                found["altered"] += sum(
                    not 0 < seq <= len(sent) or sent[seq - 1] != digest for seq, digest in rows)
                found["gaps"] += len(sent) - numbers[-1]
        found["gaps"] += sum(len(sent) for device, sent in self.hashes.items()
                             if device not in held)
        found["replay_s"] = (last - first) / 1000 if first else 0
        found.update(self._judge_firmware(store))
        return found

    def _judge_firmware(self, store):
        found = {"firmware_sessions": 0, "firmware_sound": 0, "firmware_exact": 0}
        for name in self.names:
            sums = balance(store, name)
            report = device_report(store, name)
            found["firmware_sessions"] += len(report.sessions)
            found["firmware_sound"] += sum(
                1 for each in report.sessions if each.ok and each.state == "complete")
            found["firmware_exact"] += sums.exact
        return found


