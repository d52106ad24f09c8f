"""One device's topics on a broker, as an operator's tool needs them."""

import json
import os
import queue
import ssl
import time

import paho.mqtt.client as mqtt

from evmeter_tools.errors import UserError

LOGIN_FROM = "EVMETER_MQTT_PASSWORD"  # the environment's variable
_CONNECT_S = 10


class Line:
    """A context manager; `broker` is host:port, `ca` a PEM file: TLS, with the broker verified.
    Raises UserError where the broker does not answer or refuses."""

    def __init__(self, device, broker, user=None, ca=None):
        host, _, port = broker.rpartition(":")
        if not host or not port.isdigit():
            raise UserError("--broker %s: give it as host:port" % broker)
        self._address = host, int(port)
        self._root = "evmeter/v1/%s/" % device
        self._messages = queue.Queue()
        self._passed = []  # that came while another one was awaited
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        if user:
            client.username_pw_set(user, os.environ.get(LOGIN_FROM))
        if ca:
            try:
                client.tls_set(ca)
            except (OSError, ssl.SSLError) as error:
                raise UserError("--ca %s: %s" % (ca, error)) from None
        client.on_connect = lambda _c, _d, _f, reason, _p: self._messages.put(("", reason))
        client.on_subscribe = lambda *_: self._messages.put(("subscribed", b""))
        client.on_message = self._take

    def _take(self, _client, _data, message):
        self._messages.put((message.topic[len(self._root):], message.payload))

    def __enter__(self):
        where = "%s:%d" % self._address
        try:
            self._client.connect(*self._address)
        except OSError as error:
            raise UserError("no broker at %s: %s" % (where, error)) from None
        self._client.loop_start()
        reason = self._next("", _CONNECT_S)
        if reason is None or reason.is_failure:
            self.__exit__()
            raise UserError("the broker at %s did not take the connection: %s"
                            % (where, reason or "no answer"))
        self._client.subscribe([(self._root + topic, 1) for topic in ("cmd/res", "cfg")])
        if self._next("subscribed", _CONNECT_S) is None:
            self.__exit__()
            raise UserError("the broker at %s did not take the subscription" % where)
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()

    def _next(self, wanted, seconds):
        """What came or comes under the name `wanted`, or None."""
        for at, (name, what) in enumerate(self._passed):
            if name == wanted:
                del self._passed[at]
                return what
        until = time.monotonic() + seconds
        while True:
            try:
                name, what = self._messages.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                return None
            if name == wanted:
                return what
            self._passed.append((name, what))

    def send(self, topic, text):
        """Publish on the device's topic."""
        self._client.publish(self._root + topic, text, 1).wait_for_publish(_CONNECT_S)

    def _find(self, topic, fits, seconds):
        until = time.monotonic() + seconds
        while True:
            payload = self._next(topic, until - time.monotonic())
            if payload is None:
                return None
            try:
                message = json.loads(payload)
            except ValueError:
                continue  # not of the contract
            if isinstance(message, dict) and fits(message):
                return message

    def answer(self, name, seconds):
        """The answer to the command `name`, or None."""
        return self._find("cmd/res", lambda message: message.get("id") == name, seconds)

    def configuration(self, seconds, fits=lambda message: True):
        """The next configuration that the device reports and that `fits`, or None."""
        return self._find("cfg", fits, seconds)
