"""The collector: takes durable messages, checks, commits, and only then confirms.

The order is the whole point: commit, then PUBACK to the broker, then the acknowledgement to the
device. A failed commit confirms nothing; the batch is tried again.
"""

import json
import logging
import queue
import socket
import threading
import time

import paho.mqtt.client as mqtt
from sqlalchemy.exc import SQLAlchemyError

from evmeter_tools.backend import messages
from evmeter_tools.backend.store import CONFLICT
from evmeter_tools.errors import UserError

log = logging.getLogger("evmeter.collector")

_BATCH = 100
_BATCH_S = 0.05
_RETRY_S = 1.0
_CONNECT_S = 10
_MOST_SELECTED = 48
_STATE = "evmeter/v1/_host/state"
_LIVE = ("info", "status", "avail", "tel")


class Collector:
    """One collector over a Store; `start` and `stop` from any thread."""

    def __init__(self, store, host, port, name="collector"):
        self._store = store
        self._address = host, port
        self._queue = queue.Queue()
        self._cum = {}
        self._stopping = threading.Event()
        self._connected = threading.Event()
        self._trusted = store.trusted()
        self.refused = {}  # (device, why) -> how often
        self.stored = 0
        self._client = client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id="evmeter-" + name, clean_session=False,
            manual_ack=True)
        client.will_set(_STATE, json.dumps({"online": False}), 1, True)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_socket_open = self._on_socket
        client.on_message = lambda _client, _data, message: self._queue.put(message)
        self._worker = threading.Thread(target=self._work, name="collector", daemon=True)

    def start(self):
        """Connect and collect. Raises UserError where the broker does not answer."""
        host, port = self._address
        try:
            self._client.connect(host, port, keepalive=30)
        except OSError as error:
            raise UserError("no broker at %s:%d (%s); start one or give another with --broker"
                            % (host, port, error)) from None
        self._worker.start()
        self._client.loop_start()
        if not self._connected.wait(_CONNECT_S):
            self.stop()
            raise UserError("the broker at %s:%d did not take the connection" % (host, port))

    def stop(self):
        """Say good-bye, finish the batch at hand, disconnect."""
        self._client.publish(_STATE, self._state(False), 1, True).wait_for_publish(2)
        self._stopping.set()
        if self._worker.is_alive():
            self._worker.join()
        self._client.disconnect()
        self._client.loop_stop()

    @staticmethod
    def _state(online):
        return json.dumps({"online": online, "ts": int(time.time())})

    @staticmethod
    def _on_socket(_client, _data, sock):
        # Nagle's algorithm would hold an acknowledgement back for 40 ms
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, client, _data, _flags, reason, _properties):
        if reason.is_failure:
            log.error("the broker refused the connection: %s", reason)
            return
        wanted = [("evmeter/v1/+/" + stream, 1) for stream in messages.STREAMS]
        wanted += [("evmeter/v1/+/" + topic, 0) for topic in (*_LIVE, "alarm/+")]
        client.subscribe(wanted)
        client.publish(_STATE, self._state(True), 1, True)
        self._connected.set()

    # -- the worker: batches in order of arrival --

    def _work(self):
        while not self._stopping.is_set():
            batch = self._next_batch()
            if batch:
                self._take(batch)

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
        for message in batch:
            try:
                device, rest = messages.split_topic(message.topic)
                if rest in messages.STREAMS:
                    entries.append(self._read(device, rest, message.payload))
                else:
                    self._store.note(device, rest, message.payload)
            except messages.MessageError as error:
                self._refuse(message.topic, error)
            except SQLAlchemyError as error:
                log.error("a live message was not stored: %s", error)
        fates = self._commit(entries)
        if fates is None:
            return  # stopping: nothing was committed, nothing is confirmed
        for message in batch:
            self._client.ack(message.mid, message.qos)
        self._confirm(entries, fates)

    def _read(self, device, stream, payload):
        try:
            return messages.read(device, stream, payload, self._trusted)
        except messages.Untrusted:
            self._trusted = self._store.trusted()  # enrolled since the start?
            return messages.read(device, stream, payload, self._trusted)

    def _refuse(self, topic, error):
        reason = (topic[:80], str(error))
        count = self.refused.get(reason, 0) + 1
        self.refused[reason] = count
        if count == 1:
            log.warning("refused from %s: %s", *reason)

    def _commit(self, entries):
        while entries:
            try:
                fates = self._store.add(entries)
                self.stored += len(entries)
                return fates
            except SQLAlchemyError as error:
                log.error("not stored, trying again: %s", str(error).splitlines()[0])
                if self._stopping.wait(_RETRY_S):
                    return None
        return []

    def _confirm(self, entries, fates):
        """One acknowledgement for each device of a committed batch."""
        touched = {}
        for entry, fate in zip(entries, fates, strict=True):
            why = entry.why
            if fate == CONFLICT:
                why = "another content under a stored number"
                log.error("%s: number %d came with another content", entry.device, entry.seq)
            touched.setdefault((entry.device, entry.key_id), []).append((entry.seq, why))
        for (device, key_id), numbers in touched.items():
            self._acknowledge(device, key_id, numbers)

    def _acknowledge(self, device, key_id, numbers):
        key = device, key_id
        cum = self._cum[key] = self._store.contiguous(device, key_id, self._cum.get(key, 0))
        bad = {seq: why for seq, why in numbers if why}
        selected = sorted({seq for seq, _ in numbers if seq > cum and seq not in bad})
        ack = {
            "v": 1, "ts": int(time.time()), "tq": "I", "k": key_id, "cum": cum,
            "sel": selected[:_MOST_SELECTED],
            "bad": [{"seq": seq, "why": why[:80]} for seq, why in sorted(bad.items())][:16],
        }
        self._client.publish("evmeter/v1/%s/ack" % device, json.dumps(ack), 1)
