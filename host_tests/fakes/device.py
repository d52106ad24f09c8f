"""A device at the level of the protocol: real keys, real OCMF, paho in place of a firmware."""

import hashlib
import json
import threading
import time

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter.ledger import ocmf

_START_MS = 1_790_000_000_000


class FakeDevice:
    """Makes durable messages; `start` connects, `send` publishes, `wait_for` awaits an ack."""

    def __init__(self, name="fake-0001"):
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.spki = der.hex()
        self.key_id = hashlib.sha256(der).hexdigest()[:8]
        self.acks = []
        self.host = []
        self.pubacks = 0
        self._page = 0
        self._begun = {}
        self._hash = "0" * 32
        self._changed = threading.Condition()
        self._client = None

    def event(self, seq, name="charging", **fields):
        """The bytes of an event."""
        return json.dumps({"v": 1, "ts": _START_MS // 1000 + seq, "tq": "I", "k": self.key_id,
                           "seq": seq, "sid": "", "ev": name, **fields}).encode()

    def log(self, seq, name, **fields):
        """The bytes of a signed audit entry."""
        text = self.event(seq, name, **fields)[:-1]
        signature = self._key.sign(text, ec.ECDSA(hashes.SHA256()))
        return text + b', "sg": "%s"}' % signature.hex().encode()

    def record(self, seq, kind="begin", register_mwh=1_000_000, sid=None, broken=False):
        """The bytes of a message with a signed record; a complete one begins as its begin record
        did, without one 1 kWh lower."""
        self._page += 1
        if sid is None:
            sid = "%s-%06d" % (self.name, self._page)
        readings = [(_START_MS + seq * 1000, "I", "B", register_mwh, "", "G")]
        if kind == "begin":
            self._begun[sid] = readings[0]
        if kind == "complete":
            begin = _START_MS, "I", "B", register_mwh - 1_000_000, "", "G"
            readings = [self._begun.get(sid, begin),
                        (_START_MS + seq * 1000, "I", "E", register_mwh, "", "G")]
        text = ocmf.payload(kind, {"GS": self.name, "MS": "4711"}, self._page, 1000, readings,
                            [("ZP", self._hash), ("ZS", sid)])
        signature = self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
        self._hash = ocmf.record_hash(text.encode())
        envelope = text.join(ocmf.envelope(signature))
        if broken:
            envelope = envelope.replace('"MS":"4711"', '"MS":"4712"')
        return json.dumps({"v": 1, "ts": 1, "tq": "I", "k": self.key_id, "seq": seq, "sid": sid,
                           "kind": kind, "ocmf": envelope}).encode()

    def start(self, host, port):
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = self._message
        client.on_publish = self._published
        client.on_connect = lambda c, *_: c.subscribe(
            [("evmeter/v1/%s/ack" % self.name, 1), ("evmeter/v1/_host/state", 1)])
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.max_inflight_messages_set(1000)
        client.connect(host, port)
        client.loop_start()
        if not subscribed.wait(15):
            raise TimeoutError("the broker did not take the subscription")
        return self

    def stop(self):
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, stream, payload):
        self._client.publish("evmeter/v1/%s/%s" % (self.name, stream), payload, 1)

    def _published(self, *_):
        with self._changed:
            self.pubacks += 1
            self._changed.notify_all()

    def _message(self, _client, _data, message):
        with self._changed:
            target = self.acks if message.topic.endswith("/ack") else self.host
            target.append(json.loads(message.payload))
            self._changed.notify_all()

    def cum(self):
        """The highest number up to which all is confirmed."""
        return max([ack["cum"] for ack in self.acks], default=0)

    def bad(self):
        """{number: why} of what the backend refused."""
        return {entry["seq"]: entry["why"] for ack in self.acks for entry in ack["bad"]}

    def wait_for(self, condition, seconds=15):
        """Wait until `condition()` holds; returns whether it did."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def quiet(self, seconds):
        """How many acknowledgements come in the next `seconds`."""
        before = len(self.acks)
        time.sleep(seconds)
        return len(self.acks) - before
