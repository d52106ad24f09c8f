"""What the device says over MQTT, gathered for people to look at."""

import json
import threading
import time

import paho.mqtt.client as mqtt

_DURABLE = ("rec", "evt", "ivl", "log")
_LINES_KEPT = 200
_FRESH_S = 3


class Watch:
    """Subscribes to one device's topics and keeps the newest of each."""

    def __init__(self, host, port, device):
        self._prefix = "evmeter/v1/%s/" % device
        self._lock = threading.Lock()
        self.status = {}
        self.telemetry = {}
        self.telemetry_at = 0.0
        self.online = False
        self._alarms = set()
        self.head = 0  # highest sequence number seen on its way
        self.confirmed = 0  # highest that the backend has confirmed
        self.events = []  # (name, message) of evt and rec
        self.said = 0
        self.lines = []  # what a person may want to read, newest last
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._connected
        self._client.on_message = self._message
        self._client.connect(host, port)
        self._client.loop_start()

    def close(self):
        """End the subscription."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client, _userdata, _flags, _reason, _properties):
        client.subscribe(self._prefix + "#", 0)

    def _message(self, _client, _userdata, message):
        topic = message.topic[len(self._prefix):]
        with self._lock:
            if topic == "avail":
                self.online = message.payload == b"online"
                self.say("device %s" % message.payload.decode())
                return
            if topic.startswith("alarm/"):
                self._alarm(topic[6:], message.payload)
                return
            if not message.payload:  # what was retained is taken back
                return
            body = json.loads(message.payload)
            if topic == "status":
                self.status = body
            elif topic == "tel":
                self.telemetry = body
                self.telemetry_at = time.monotonic()
                self.confirmed = max(self.confirmed, body.get("cur", 0))
            elif topic == "ack":
                self.confirmed = max(self.confirmed, body["cum"])
            elif topic in _DURABLE:
                self._durable(topic, body)

    def _alarm(self, code, payload):
        if payload:
            self._alarms.add(code)
            self.say("alarm %s: %s" % (code, json.loads(payload)["text"]))
        elif code in self._alarms:
            self._alarms.remove(code)
            self.say("alarm %s cleared" % code)

    def _durable(self, topic, body):
        fresh = body["seq"] > self.head
        self.head = max(self.head, body["seq"])
        name = body["kind"] if topic == "rec" else body.get("ev", topic)
        self.events.append((name, body))
        if fresh and name != "alarm":  # its own topic told it
            what = "signed record" if topic == "rec" else "event"
            self.say("%s %d: %s %s" % (what, body["seq"], name, body["sid"]))

    def say(self, text):
        """Add a line for the reader."""
        self.said += 1
        self.lines.append((time.strftime("%H:%M:%S"), text))
        del self.lines[:-_LINES_KEPT]

    def power_w(self):
        """The power in watts, or None where the newest word of it is older than 3 s."""
        if time.monotonic() - self.telemetry_at > _FRESH_S or "p_mw" not in self.telemetry:
            return None
        return self.telemetry["p_mw"] // 1000

    def count(self, name):
        """How many different events or records `name` came."""
        with self._lock:
            return len({body["seq"] for event, body in self.events if event == name})
