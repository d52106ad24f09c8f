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
from evmeter_tools.backend.intake import Intake
from evmeter_tools.backend.store import CONFLICT, CONFLICT_WHY
from evmeter_tools.errors import UserError
from evmeter_tools.words import clean

log = logging.getLogger("evmeter.collector")

BATCH = 400  # messages in one commit, at most
_BATCH_S = 0.1
_IDLE_S = 0.2
_QOS = 1
_MOST_PAUSE_S = 30
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
        # (connection, packet id, entry or None) of what came and was not taken yet
        self._waiting = []
        self._connections = 0
        self._pause_s = 0
        self._reached = {}  # line -> (up to where it has no gap, its highest number)
        self._stopping = threading.Event()
        self._trusted = store.trusted()
        self._lines = store.lines()
        self.refused = {}  # (topic, why) -> how often
        self.stored = 0
        more = {} if share else {"clean_session": False}
        self._client = client = mqtt.client(
            address, name, version=paho.MQTTv5 if share else paho.MQTTv311, kind=Intake,
            take=self._on_message, **more)
        if not share:  # with MQTT 5 the broker may bound it, at 20 where it says nothing else
            # its word on an acknowledgement comes behind the messages that wait to be read; a
            # bound has paho go through all of them at each word
            client.max_inflight_messages_set(0)
        self._worker = threading.Thread(target=self._work, name="collector", daemon=True)

    def start(self):
        """Connect and collect. Raises UserError where the broker does not answer, or does not
        deliver the shared subscription."""
        more = {}
        if self._share:
            prove_sharing(self._address)
            # What a dead replica had not confirmed goes to the others by the devices' repetition
            more = {"clean_start": True, "properties": _receive_maximum()}
        mqtt.connect(self._client, self._address, self._on_connect, own_loop=True, **more)
        self._worker.start()

    def stop(self):
        """Finish the batch at hand, disconnect."""
        self._stopping.set()
        if self._worker.is_alive():
            self._worker.join()
        self._client.disconnect()
        self._client.exchange(0)

    def _on_connect(self, client):
        # what an earlier connection brought comes again: by the broker, or by the devices
        self._waiting.clear()
        self._connections += 1
        self._pause_s = 0
        prefix = "$share/%s/" % self._share if self._share else ""
        client.subscribe([("%s%s+/%s" % (prefix, mqtt.ROOT, stream),
                           paho.SubscribeOptions(1) if self._share else 1)
                          for stream in messages.STREAMS])

    # -- the worker: batches in order of arrival. It reads the connection itself, as two threads
    # would spend a third of their time on handing messages over --

    def _work(self):
        while not self._stopping.is_set():
            self._receive(BATCH, 0 if self._waiting else _IDLE_S)
            batch = self._waiting[:BATCH]
            del self._waiting[:BATCH]
            while batch:
                try:
                    self._take(batch)
                    break
                except SQLAlchemyError as error:  # what was committed already is found there
                    log.error("not confirmed, trying again: %s", str(error).splitlines()[0])
                    if self._stopping.wait(_RETRY_S):
                        break

    def _receive(self, most, wait_s):
        """Read what has come, until `most` messages wait; keep the connection alive, or make
        another one. Raises nothing: the worker must not end."""
        try:
            if self._client.socket() is None:
                self._reconnect()
            elif self._client.exchange(wait_s, most - len(self._waiting), _BATCH_S):
                self._store.pressed_at = time.monotonic()
        except Exception:
            log.exception("the connection to the broker is made anew")
            broken = self._client.socket()
            if broken:
                broken.close()
            self._stopping.wait(_RETRY_S)

    def _reconnect(self):
        if self._stopping.wait(self._pause_s):
            return
        self._pause_s = min(2 * self._pause_s + 1, _MOST_PAUSE_S)
        try:
            self._client.reconnect()
        except OSError as error:
            log.warning("no broker at %s: %s", self._address, error)

    def _on_message(self, mid, topic, payload):
        """Read a message at once, as long as the processor has it at hand."""
        entry = None
        try:
            device, stream = messages.split_topic(topic)
            entry = self._read(device, stream, payload)
        except messages.MessageError as error:
            self._refuse(topic, error)
        except Exception as error:
            log.exception("a message from %s cannot be read", clean(topic)[:80])
            self._refuse(topic, type(error).__name__)
        self._waiting.append((self._connections, mid, entry))

    def _take(self, batch):
        entries = [entry for *_, entry in batch if entry]
        fates = self._commit(entries)
        if fates is None:
            return  # stopping: nothing was committed, nothing is confirmed
        for connection, mid, _ in batch:
            if connection == self._connections:  # else its number may be another message's by now
                self._client.ack(mid, _QOS)
        self._confirm(entries, fates)

    def _read(self, device, stream, payload):
        try:
            return messages.read(device, stream, payload, self._trusted)
        except messages.Untrusted:
            try:
                self._know_keys()  # enrolled since the start?
            except SQLAlchemyError as error:  # the device will send it again
                log.error("keys not read: %s", str(error).splitlines()[0])
            return messages.read(device, stream, payload, self._trusted)

    def _know_keys(self):
        self._trusted = self._store.trusted()
        self._lines = self._store.lines()

    def _refuse(self, topic, error):
        reason = clean(topic)[:80], clean(error)  # what a log would take for a line of its own
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
                if self._client.socket() is not None:  # the broker is not to give us up
                    self._receive(_IN_FLIGHT, 0)
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
        lines = {(device, key_id): (device, self._lines.get((device, key_id), (key_id,)))
                 for device, key_id in touched}
        new = [line for line in lines.values() if line not in self._reached]
        if new:
            self._reached.update(self._store.reached(new))
        for key, numbers in touched.items():
            cum = self._advance(lines[key], [seq for seq, _ in numbers])
            self._acknowledge(*key, cum, numbers)

    def _advance(self, line, numbers):
        """Up to which number everything of a line is stored, now that `numbers` are."""
        cum, last = self._reached[line]
        numbers = sorted(numbers)
        for seq in numbers:
            if seq > cum + 1:
                break
            cum = max(cum, seq)
        last = max(last, numbers[-1])
        if last > cum:  # a gap, that another replica or an earlier life may have closed
            cum = self._store.contiguous(*line, cum)
        self._reached[line] = cum, last
        return cum

    def _acknowledge(self, device, key_id, cum, numbers):
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
    came = queue.SimpleQueue()
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
