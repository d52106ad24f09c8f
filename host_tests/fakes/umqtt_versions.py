"""Stand-ins for the versions of umqtt.simple that ESP32 firmware has frozen in.

Each is the installed 1.3.4 with the points in which that version differs, as far as they reach a
caller: 1.4.0 (in 1.24), 1.6.0 (1.25, 1.26), 1.7.0 (1.27, 1.28) and 1.8.0 (1.29). CPython only.
"""

from evmeter_tools.paths import UMQTT

VERSIONS = ("1.3.4", "1.4.0", "1.6.0", "1.7.0", "1.8.0")
_CONNECT = "    def connect(self, clean_session=True):\n"
_LAST = "        elif op & 6 == 4:\n            assert 0\n"
_CONNACK = ("        assert resp[0] == 0x20 and resp[1] == 0x02\n"
            "        if resp[3] != 0:\n            raise MQTTException(resp[3])\n")
_SUBSCRIBE = "    def subscribe(self, topic, qos=0):\n"
_UNSUBSCRIBE = """\
    def unsubscribe(self, topic):
        self._ask(0xA2, 0xB0, topic, b"")

    def _ask(self, first, answer, topic, tail):
        self.pid += 1
        asked = struct.pack("!HH", self.pid, len(topic)) + topic + tail
        length = len(asked)
        head = bytearray((first,))
        while length > 0x7F:
            head.append(length & 0x7F | 0x80)
            length >>= 7
        head.append(length)
        self.sock.write(head)
        self.sock.write(asked)
        while self.wait_msg() != answer:
            pass
        told = self.sock.read(3 + len(tail))
        assert told[1:3] == asked[:2]
        if tail and told[3] == 0x80:
            raise MQTTException(told[3])

"""
# (since version, what stands in the version before, what stands there from then on)
_CHANGES = (
    ("1.4.0", "ssl=False, ssl_params={}", "ssl=None"),
    ("1.4.0", "        self.ssl_params = ssl_params\n", ""),
    ("1.4.0", "            import ussl\n", ""),
    ("1.4.0", "ussl.wrap_socket(self.sock, **self.ssl_params)",
     "self.ssl.wrap_socket(self.sock, server_hostname=self.server)"),
    ("1.4.0", "if self.user is not None:", "if self.user:"),
    ("1.4.0", _LAST, _LAST + "        return op\n"),
    ("1.6.0", "import usocket as socket", "import socket"),
    ("1.6.0", "import ustruct as struct", "import struct"),
    ("1.6.0", "from ubinascii import", "from binascii import"),
    ("1.6.0", "        self.sock = socket.socket()\n",
     "        self.sock = socket.socket()\n        self.sock.settimeout(timeout)\n"),
    ("1.6.0", _CONNECT, """\
    def connect(self, clean_session=True, timeout=None):
        if self.sock:
            self.sock.close()
"""),
    ("1.7.0", _SUBSCRIBE, _UNSUBSCRIBE + _SUBSCRIBE),
    ("1.8.0", _SUBSCRIBE, _SUBSCRIBE + """\
        assert self.cb is not None
        self._ask(0x82, 0x90, topic, bytes((qos,)))

    def _subscribe_of_before(self, topic, qos):
"""),
    ("1.8.0", _CONNACK, """\
        if not resp or len(resp) < 4 or resp[:2] != bytes((0x20, 2)):
            raise MQTTException(-1)
        if resp[3]:
            raise MQTTException(resp[3])
"""),
)


def source(version):
    """The text of umqtt/simple.py as `version` behaves."""
    text = (UMQTT / "umqtt" / "simple.py").read_text()
    for since, before, after in _CHANGES:
        if since <= version:
            if before not in text:
                raise ValueError("umqtt.simple is not the one that was known: %r" % before)
            text = text.replace(before, after)
    return text


def write(folder, version):
    """Put the stand-in into `folder`, which then goes before the installed one in the path."""
    (folder / "umqtt").mkdir()
    (folder / "umqtt" / "simple.py").write_text(source(version))
