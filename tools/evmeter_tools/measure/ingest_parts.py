"""One part of ingest_ratio, a process of its own on one core.

    python -m evmeter_tools.measure.ingest_parts receive|check|insert|collect FOLDER CORE PORT

FOLDER has records.jsonl. Prints "ready" once messages may come, then a JSON object: wall and
processor seconds from the first message to the last one.
"""

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.backend import collector, messages, mqtt
from evmeter_tools.backend.leader import Leader
from evmeter_tools.backend.store import Store

_LIMIT_S = 300


def load(folder):
    """[(device, key id, SPKI, stream, payload)] in the order of sending."""
    with (Path(folder) / "records.jsonl").open() as lines:
        return [(*head, payload.encode()) for *head, payload in map(json.loads, lines)]


class _Count:
    """Counts to `wanted`; `seconds` are those from the first on."""

    def __init__(self, wanted):
        self._wanted = wanted
        self._count = 0
        self._begun = None
        self.done = threading.Event()
        self.seconds = {}

    def begin(self):
        self._begun = self._begun or (time.perf_counter(), time.process_time())

    def add(self, number):
        self._count += number
        if self._count >= self._wanted and not self.done.is_set():
            self.seconds = {"wall_s": time.perf_counter() - self._begun[0],
                            "cpu_s": time.process_time() - self._begun[1]}
            self.done.set()


def receive(_folder, records, port):
    """paho as it is takes and confirms every message with QoS 1; nothing is done with it."""
    count = _Count(len(records))
    address = mqtt.Address("127.0.0.1", port)

    def on_message(_client, _data, _message):
        count.begin()
        count.add(1)

    client = mqtt.client(address, "bare")
    client.on_log = None
    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    mqtt.connect(client, address, lambda made: made.subscribe(
        [("%s+/%s" % (mqtt.ROOT, stream), 1) for stream in messages.STREAMS]))
    count.done.wait(_LIMIT_S)
    mqtt.close(client)
    return count.seconds


def check(_folder, records, _port):
    """Every record's signature as it stands there, its key at hand."""
    keys, work = {}, []
    for _, _, spki, stream, payload in records:
        if stream == "rec":
            if spki not in keys:
                keys[spki] = serialization.load_der_public_key(bytes.fromhex(spki))
            _, signed, section = json.loads(payload)["ocmf"].split("|")
            work.append((keys[spki], json.loads(section)["SD"], signed.encode()))
    count = _Count(1)
    algorithm = ec.ECDSA(hashes.SHA256())
    count.begin()
    for key, signature, signed in work:
        key.verify(bytes.fromhex(signature), signed, algorithm)
    count.add(1)
    return count.seconds


def insert(folder, records, _port):
    """Every record's row into the backend's own table, as many a commit as the collector takes."""
    store = Store(folder / "bare.sqlite")
    rows = []
    for device, key_id, _, stream, payload in records:
        found = json.loads(payload)
        rows.append((device, key_id, found["seq"], stream, found["sid"],
                     found.get("kind", found.get("ev", stream)), payload,
                     hashlib.sha256(payload).hexdigest(), 1_790_000_000_000, "ok", ""))
    connection = store.engine.raw_connection().driver_connection
    statement = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    count = _Count(1)
    count.begin()
    for first in range(0, len(rows), collector.BATCH):
        connection.executemany(statement, rows[first:first + collector.BATCH])
        connection.commit()
    count.add(1)
    store.close()
    return count.seconds


class _Counted(collector.Collector):
    """Tells from when the first message is taken to when the last acknowledgement is written."""

    def __init__(self, count, *arguments):
        super().__init__(*arguments)
        self._counter = count

    def _take(self, batch):
        super()._take(batch)
        self._client.exchange(0, 0)
        self._counter.add(len(batch))

    def _on_message(self, *message):
        self._counter.begin()
        super()._on_message(*message)


def collect(folder, records, port):
    """The backend as it runs, without its pages; its reports wait until such a rush is over."""
    store = Store(folder / "whole.sqlite")
    for device, key_id, spki in {head[:3] for head in records}:
        store.enrol(device, key_id, spki)
    count = _Count(len(records))
    address = mqtt.Address("127.0.0.1", port)
    made, leader = _Counted(count, store, address), Leader(store, address)
    made.start()
    leader.start()
    leader.leads.wait(_LIMIT_S)
    print("ready", flush=True)
    count.done.wait(_LIMIT_S)
    made.stop()
    leader.stop()
    sound = [row.verdict for row in store.rows()].count("ok")
    store.close()
    return {**count.seconds, "sound": sound, "taken": made.stored}


PARTS = {"receive": receive, "check": check, "insert": insert, "collect": collect}


def main():
    """Entry point of the process."""
    name, folder, core, port = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    print(json.dumps(PARTS[name](Path(folder), load(folder), int(port))), flush=True)


if __name__ == "__main__":
    main()
