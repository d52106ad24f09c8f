"""The network of a charger on virtual time: access point, name server, time servers, and a broker
whose backend acknowledges what it has. It outlives the device, and fails where a campaign says.
"""

import errno
import json
from types import SimpleNamespace

from evmeter_tools.faults import fakes

fakes.reach()

from fakes.net import FakeBroker, FakePoller, FakeSocket  # noqa: E402 - found by reach()
from fakes.radio import Network, Wlan  # noqa: E402
from fakes.time_server import reply  # noqa: E402

SSID, PASSWORD = "forecourt", "correct horse"
BROKER, TIME_SERVERS = "broker.test", ("one.time.test", "two.time.test")
_ADDRESSES = {BROKER: "192.0.2.10", TIME_SERVERS[0]: "192.0.2.21", TIME_SERVERS[1]: "192.0.2.22"}
_HOST = b"evmeter/v1/_host/state"
_DNS_PORT = 53
_TRIP_MS = 20
_MOST_AT_ONCE = 4096
_UNREACHABLE = 118  # EHOSTUNREACH of the ESP32
_GONE = 200  # wifi_err_reason_t: beacon timeout
_STREAMS = ("rec", "evt", "ivl", "log")


class _Tcp(FakeSocket):
    """A connection to the broker."""

    def __init__(self, site):
        super().__init__(site.broker)
        self._site = site
        self.most_at_once = _MOST_AT_ONCE

    def connect(self, address):
        """As a socket that does not block."""
        if not self._site.reachable:
            raise OSError(_UNREACHABLE)
        if address[0] != _ADDRESSES[BROKER] or self._site.broker.down:
            raise OSError(errno.ECONNREFUSED)
        super().connect(address)

    def write(self, data):
        """What is written without a network stays here."""
        self.stuck = not self._site.reachable
        return super().write(data)


class _Udp:
    """A socket to a name server or a time server."""

    def __init__(self, site):
        self._site = site
        self._peer = None
        self._answers = []  # (when, bytes)
        self.closed = False

    def setblocking(self, flag):
        """Never to be set."""
        if flag:
            raise AssertionError("setblocking(True) waits for ever on an ESP32")

    def bind(self, address):
        """Any port is free."""

    def connect(self, address):
        """Whom to ask."""
        self._peer = address

    def send(self, data):
        """Ask."""
        site = self._site
        if not site.reachable:
            raise OSError(_UNREACHABLE)
        answer = (site.resolve(data) if self._peer[1] == _DNS_PORT
                  else site.tell_time(self._peer[0], data))
        if answer:
            self._answers.append((site.time.now_us + _TRIP_MS * 1000, answer))

    def readinto(self, buffer):
        """What has come."""
        if not self._answers or self._site.time.now_us < self._answers[0][0]:
            return None
        data = self._answers.pop(0)[1]
        buffer[:len(data)] = data
        return len(data)

    def close(self):
        """Done."""
        self.closed = True


class _Broker(FakeBroker):
    """Keeps each frame of the device `root`, and acknowledges it."""

    def __init__(self, root, key_id):
        super().__init__()
        self._root = root
        self._key_id = key_id
        self._cum = 0
        self.down = False
        self.frames = {}  # number -> payload
        self.conflicts = []
        self.answers = []  # to commands

    def fall(self):
        """No broker from now on, until `down` is taken back."""
        self.down = True
        if self.socket:
            self.socket.eof = True

    def received(self, sock, data):
        """As FakeBroker; what a connection of the time before still says is lost."""
        if sock is self.socket:
            super().received(sock, data)

    def _answer(self, packet, head):
        super()._answer(packet, head)
        if packet[0] & 0xF0 == 0x80 and self.subscribed[-1] == _HOST:
            self.say(_HOST, b'{"online":true}')
        del self.packets[:]

    def _publish(self, first, body):
        super()._publish(first, body)
        topic, payload = self.published.pop()[:2]
        name = topic[len(self._root):].decode()
        if name == "cmd/res":
            self.answers.append(json.loads(payload))
        elif name in _STREAMS:
            seq = json.loads(payload)["seq"]
            if self.frames.setdefault(seq, payload) != payload:
                self.conflicts.append(seq)
            while self._cum + 1 in self.frames:
                self._cum += 1
            self.say(self._root + b"ack", json.dumps({
                "v": 1, "k": self._key_id, "cum": self._cum,
                "sel": [seq] if seq > self._cum else [], "bad": []}).encode())


class Site:
    """`time` is a faults.line.Time, `true_ms()` the Unix time as it is."""

    def __init__(self, time, true_ms, device_id, key_id):
        self.time = time
        self._true_ms = true_ms
        self._root = b"evmeter/v1/%s/" % device_id.encode()
        self._seed = 1
        self.broker = _Broker(self._root, key_id)
        self.access_point = True
        self.name_server = True
        self.network = Network()
        self.wlan = None
        self.commands = 0
        self.sockets = SimpleNamespace(
            AF_INET=2, SOCK_STREAM=1, SOCK_DGRAM=2, TCP_NODELAY=1, getaddrinfo=self._address,
            socket=self._socket)
        self.poll = FakePoller

    def start(self):
        """The device has started: its radio is off."""
        self.wlan = Wlan(SimpleNamespace(mono_ms=self.time.mono_ms, pass_ms=self._pass_ms),
                         self._reach)
        return self.wlan

    def _pass_ms(self, ms):
        self.time.now_us += ms * 1000

    def _reach(self, ssid, password):
        return 0 if self.access_point and (ssid, password) == (SSID, PASSWORD) else 201

    @property
    def reachable(self):
        """Whether the device is on the network."""
        return self.wlan is not None and self.wlan.associated

    def drop(self):
        """The access point goes away, until `access_point` is set again."""
        self.access_point = False
        self.wlan.drop(_GONE)

    def random(self, count):
        """As os.urandom, the same in each life."""
        self._seed = self._seed * 75 % 65537
        return bytes((self._seed >> 4 * (index % 3)) & 255 for index in range(count))

    def _socket(self, _family=2, kind=1):
        return _Udp(self) if kind == 2 else _Tcp(self)

    @staticmethod
    def _address(host, port, _family, kind):
        if host.strip("0123456789."):
            raise OSError(-2)
        return [(2, kind, 0, "", (host, port))]

    def resolve(self, data):
        """The name server's answer to a query, or None."""
        if not self.name_server:
            return None
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]])
            at += 1 + data[at]
        address = _ADDRESSES.get(b".".join(labels).decode())
        if address is None:
            return bytes(data[:2]) + b"\x81\x83" + bytes(data[4:])
        return (bytes(data[:2]) + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
                + bytes(data[12:]) + b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04"
                + bytes(int(part) for part in address.split(".")))

    def tell_time(self, address, data):
        """A time server's answer, or None."""
        if address not in _ADDRESSES.values():
            return None
        return reply(data, self._true_ms() + _TRIP_MS // 2)

    def command(self, op, args=None):
        """Send a command to the device; returns its id."""
        self.commands += 1
        name = "c-%d" % self.commands
        if self.broker.socket and not self.broker.down:
            self.broker.say(self._root + b"cmd", json.dumps({
                "v": 1, "id": name, "op": op, "args": args or {},
                "exp": self._true_ms() // 1000 + 300}).encode())
        return name

    def answered(self, name):
        """Whether a command was answered, and well."""
        return any(told["id"] == name and told["ok"] for told in self.broker.answers)
