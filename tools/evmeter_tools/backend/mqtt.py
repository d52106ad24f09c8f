"""The backend's connections to the broker."""

import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass

import paho.mqtt.client as mqtt

from evmeter_tools.errors import UserError

log = logging.getLogger("evmeter.mqtt")

CONNECT_S = 10
KEEPALIVE_S = 30
ROOT = "evmeter/v1/"
HOST_STATE = ROOT + "_host/state"
_AGAIN_S = 1.0


@dataclass(frozen=True)
class Address:
    """Where the broker is and how to log in; `ca` is a file that its certificate is checked
    against ("" for none: no TLS)."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    ca: str = ""

    def __str__(self):
        return "%s:%d" % (self.host, self.port)


class Client(mqtt.Client):
    """paho's client, whose thread ends with the first exception: nothing would come in any more,
    and nobody would notice. Callbacks are one source; paho's own walk through the packets that
    wait, while another thread adds one, is another."""

    def loop_forever(self, *args, **more):
        """What that thread runs."""
        while True:
            try:
                return super().loop_forever(*args, **more)
            except Exception:
                log.exception("the connection to the broker is made anew")
                broken = self.socket()
                if broken:
                    broken.close()
                time.sleep(_AGAIN_S)


def _on_socket(_client, _data, sock):
    # Nagle's algorithm would hold an acknowledgement back for 40 ms
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _on_log(_client, _data, level, text):
    if level == mqtt.MQTT_LOG_ERR and text.startswith("Caught exception"):
        log.exception("%s", text)


def client(address, name, *, version=mqtt.MQTTv311, kind=Client, **more):
    """A client that is not connected yet; it reconnects by itself."""
    made = kind(mqtt.CallbackAPIVersion.VERSION2, client_id="evmeter-" + name,
                protocol=version, **more)
    made.on_socket_open = _on_socket
    made.suppress_exceptions = True  # a message that a callback fails on must not come for ever
    made.on_log = _on_log
    made.reconnect_delay_set(1, 30)
    if address.user:
        made.username_pw_set(address.user, address.password)
    if address.ca:
        try:
            made.tls_set(ca_certs=address.ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        except (OSError, ssl.SSLError) as error:
            raise UserError("the CA file %s cannot be used: %s" % (address.ca, error)) from None
    return made


def connect(made, address, on_connect, own_loop=False, **more):
    """Connect and wait until the broker took it; `on_connect(client)` runs at each connection.
    `own_loop`: what comes later is read by the caller, not by a thread of the client.

    Raises UserError.
    """
    answered = threading.Event()
    refusal = []

    def answer(_client, _data, _flags, reason, _properties):
        refusal[:] = [str(reason)] if reason.is_failure else []
        if not refusal:
            on_connect(made)
        answered.set()

    made.on_connect = answer
    try:
        made.connect(address.host, address.port, keepalive=KEEPALIVE_S, **more)
    except OSError as error:
        raise UserError("no broker at %s (%s); start one or give another with --broker"
                        % (address, error)) from None
    if own_loop:
        deadline = time.monotonic() + CONNECT_S
        while made.socket() and not (answered.is_set() or time.monotonic() > deadline):
            made.exchange(0.1)
        made.exchange(0)  # what on_connect had to say
    else:
        made.loop_start()
        answered.wait(CONNECT_S)
    if not answered.is_set() or refusal:
        close(made)
        raise UserError("the broker at %s did not take the connection: %s"
                        % (address, refusal[0] if refusal else "no answer"))


def close(made):
    """Say good-bye and end its thread."""
    made.disconnect()
    made.loop_stop()
