"""The collector: takes durable messages, checks, commits, and only then confirms.

The order is the whole point: commit, then PUBACK to the broker, then the acknowledgement to the
device. A failed commit confirms nothing; the batch is tried again. Any number of collectors may
share the work over one database: `share` names their group of MQTT 5 shared subscriptions.
"""

import json
import logging
import queue
import secrets
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from evmeter_tools.backend import messages, mqtt
from evmeter_tools.backend.store import CONFLICT, CONFLICT_WHY
from evmeter_tools.errors import UserError

log = logging.getLogger("evmeter.collector")

_BATCH = 100
_BATCH_S = 0.05
_RETRY_S = 1.0
_ATTEMPTS = 5  # for one message that the database takes offence at
_MOST_SELECTED = 48
_IN_FLIGHT = 500
_REASONS_KEPT = 1000
_PROBES = 4
_PROBE_S = 5


class Collector:
    """One collector over a Store; `start` and `stop` from any thread. `name` must be its own."""

    def __init__(self, store, address, name="collector", share=None):
        self._store = store
        self._address = address
        self._share = share
        self._queue = queue.Queue()
        self._connections = 0
        self._cum = {}
        self._stopping = threading.Event()
        self._trusted = store.trusted()
        self._lines = store.lines()
        self.refused = {}  # (topic, why) -> how often
        self.stored = 0
        more = {} if share else {"clean_session": False}
        self._client = client = mqtt.client(
            address, name, version=paho.MQTTv5 if share else paho.MQTTv311, manual_ack=True,
            **more)
        client.on_message = self._on_message
        self._worker = threading.Thread(target=self._work, name="collector", daemon=True)

    def start(self):
        """Connect and collect. Raises UserError where the broker does not answer, or does not
        deliver the shared subscription."""
        more = {}
        if self._share:
            prove_sharing(self._address)
            # What a dead replica had not confirmed goes to the others by the devices' repetition
            more = {"clean_start": True, "properties": _receive_maximum()}
        mqtt.connect(self._client, self._address, self._on_connect, **more)
        self._worker.start()

    def stop(self):
        """Finish the batch at hand, disconnect."""
        self._stopping.set()
        if self._worker.is_alive():
            self._worker.join()
        mqtt.close(self._client)

    def _on_message(self, _client, _data, message):
        self._queue.put((self._connections, message))

    def _on_connect(self, client):
        self._connections += 1
        prefix = "$share/%s/" % self._share if self._share else ""
        client.subscribe([("%s%s+/%s" % (prefix, mqtt.ROOT, stream),
                           paho.SubscribeOptions(1) if self._share else 1)
                          for stream in messages.STREAMS])

    # -- the worker: batches in order of arrival --

    def _work(self):
        while not self._stopping.is_set():
            batch = self._next_batch()
            while batch:
                try:
                    self._take(batch)
                    break
                except SQLAlchemyError as error:  # what was committed already is found there
                    log.error("not confirmed, trying again: %s", str(error).splitlines()[0])
                    if self._stopping.wait(_RETRY_S):
                        break

    def _next_batch(self):
        try:
            batch = [self._queue.get(timeout=0.2)]
        except queue.Empty:
            return []
        deadline = time.monotonic() + _BATCH_S
        while len(batch) < _BATCH:
            try:
                # what waits already is taken at once; the deadline bounds a trickle
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
            if time.monotonic() > deadline:
                break
        return batch

    def _take(self, batch):
        entries = []
        for _, message in batch:
            try:
                device, stream = messages.split_topic(message.topic)
                entries.append(self._read(device, stream, message.payload))
            except messages.MessageError as error:
                self._refuse(message.topic, error)
            except SQLAlchemyError:
                raise
            except Exception as error:
                log.exception("a message from %s cannot be read", message.topic[:80])
                self._refuse(message.topic, type(error).__name__)
        fates = self._commit(entries)
        if fates is None:
            return  # stopping: nothing was committed, nothing is confirmed
        for connection, message in batch:
            if connection == self._connections:  # else its number may be another message's by now
                self._client.ack(message.mid, message.qos)
        self._confirm(entries, fates)

    def _read(self, device, stream, payload):
        try:
            return messages.read(device, stream, payload, self._trusted)
        except messages.Untrusted:
            self._know_keys()  # enrolled since the start?
            return messages.read(device, stream, payload, self._trusted)

    def _know_keys(self):
        self._trusted = self._store.trusted()
        self._lines = self._store.lines()

    def _refuse(self, topic, error):
        reason = (topic[:80], str(error))
        if reason not in self.refused and len(self.refused) >= _REASONS_KEPT:
            return
        count = self.refused.get(reason, 0) + 1
        self.refused[reason] = count
        if count == 1:
            log.warning("refused from %s: %s", *reason)

    def _commit(self, entries):
        """What became of each entry, None for one that the database refuses; None where the
        collector is stopped before it could commit."""
        attempts = 0
        while entries:
            try:
                fates = self._store.add(entries)
                self.stored += len(entries)
                return fates
            except SQLAlchemyError as error:
                attempts += 1
                log.error("not stored, trying again: %s", str(error).splitlines()[0])
                if not _passes(error) and (len(entries) > 1 or attempts == _ATTEMPTS):
                    return self._commit_each(entries)
                if self._stopping.wait(_RETRY_S):
                    return None
        return []

    def _commit_each(self, entries):
        """One bad message must not hold the others up."""
        if len(entries) == 1:
            self._refuse(entries[0].device, "the database does not take it")
            return [None]
        fates = []
        for entry in entries:
            fate = self._commit([entry])
            if fate is None:
                return None
            fates += fate
        return fates

    def _confirm(self, entries, fates):
        """One acknowledgement for each device of a committed batch."""
        touched = {}
        for entry, fate in zip(entries, fates, strict=True):
            if fate is None:
                continue
            why = entry.why
            if fate == CONFLICT:
                why = CONFLICT_WHY
                log.error("%s: number %d came with another content", entry.device, entry.seq)
            if "new_key" in entry.facts:
                self._know_keys()
            touched.setdefault((entry.device, entry.key_id), []).append((entry.seq, why))
        for (device, key_id), numbers in touched.items():
            self._acknowledge(device, key_id, numbers)

    def _acknowledge(self, device, key_id, numbers):
        line = self._lines.get((device, key_id), (key_id,))
        key = device, line
        cum = self._cum[key] = self._store.contiguous(device, line, self._cum.get(key, 0))
        bad = {seq: why for seq, why in numbers if why}
        selected = sorted({seq for seq, _ in numbers if seq > cum and seq not in bad})
        ack = {
            "v": 1, "ts": int(time.time()), "tq": "I", "k": key_id, "cum": cum,
            "sel": selected[:_MOST_SELECTED],
            "bad": [{"seq": seq, "why": why[:80]} for seq, why in sorted(bad.items())][:16],
        }
        self._client.publish("%s%s/ack" % (mqtt.ROOT, device), json.dumps(ack), 1)


def _passes(error):
    """Whether the database is only away or busy: then there is nothing wrong with the batch."""
    return (isinstance(error, (OperationalError, InterfaceError))
            or (isinstance(error, DBAPIError) and error.connection_invalidated))


def _receive_maximum():
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = _IN_FLIGHT
    return properties


def prove_sharing(address):
    """Raise UserError unless the broker really delivers shared subscriptions, each message once:
    brokers were seen to grant them and to deliver nothing."""
    topic = "%s_host/probe-%s" % (mqtt.ROOT, secrets.token_hex(8))
    came = queue.Queue()
    clients = []
    try:
        for _ in range(2):
            granted = threading.Event()
            made = mqtt.client(address, "probe-" + secrets.token_hex(6), version=paho.MQTTv5)
            made.on_message = lambda _client, _data, message: came.put(message.payload)
            made.on_subscribe = lambda *_, granted=granted: granted.set()
            mqtt.connect(made, address, lambda client: client.subscribe(
                "$share/probe/" + topic, options=paho.SubscribeOptions(1)))
            clients.append(made)
            if not granted.wait(_PROBE_S):
                raise UserError("the broker at %s does not answer a shared subscription" % address)
        for number in range(_PROBES):
            clients[0].publish(topic, b"%d" % number, 1)
        found = sorted(_gather(came))
    finally:
        for made in clients:
            mqtt.close(made)
    if found != [b"%d" % number for number in range(_PROBES)]:
        raise UserError("the broker at %s delivered %d of %d messages of a shared subscription; "
                        "use mosquitto 2 or another broker of MQTT 5, or leave --share out"
                        % (address, len(found), _PROBES))


def _gather(came):
    """What came until all is there, and half a second more for what comes twice."""
    deadline = time.monotonic() + _PROBE_S
    found = []
    while time.monotonic() < deadline:
        try:
            found.append(came.get(timeout=0.1))
        except queue.Empty:
            continue
        if len(found) == _PROBES:
            deadline = min(deadline, time.monotonic() + 0.5)
    return found
