"""Sockets with the ESP32's manners where these are the worse ones, and a broker in memory.

`setblocking(True)` would wait for ever on the ESP32, so that calling it is an error here. A write
takes part of the data; a read without data, or a write without room, gives None (or EAGAIN, as
CPython's sockets do). A reset comes at the byte that the test names, as the ESP32's ETIMEDOUT.
"""

import errno

ESP32_ETIMEDOUT = 116  # 110 on Linux


class FakeSocket:
    """One end of a connection; `broker` gets what is written and fills `incoming`."""

    def __init__(self, broker):
        self._broker = broker
        self.incoming = bytearray()
        self.closed = False
        self.eof = False
        self.most_at_once = 7
        self.raises_again = False
        self.stuck = False
        self.dies_after = None  # bytes written before the connection breaks
        self.written = 0
        self.offers = []  # length of each write that was tried

    def _again(self):
        if self.raises_again:
            raise OSError(errno.EAGAIN)

    def setblocking(self, flag):
        if flag:
            raise AssertionError("setblocking(True) waits for ever on an ESP32")

    def settimeout(self, seconds):
        raise AssertionError("a timeout would be lost at the first read")

    def setsockopt(self, *_):
        return None

    def connect(self, address):
        self._broker.connected(self)
        raise OSError(errno.EINPROGRESS)

    def fileno(self):
        return 1

    def write(self, data):
        if self.closed:
            raise OSError(errno.ECONNRESET)
        self.offers.append(len(data))
        if self.stuck:
            return self._again()
        taken = bytes(data[: self.most_at_once])
        if self.dies_after is not None:
            if self.written >= self.dies_after:
                raise OSError(ESP32_ETIMEDOUT)
            taken = taken[: self.dies_after - self.written]
        self.written += len(taken)
        self._broker.received(self, taken)
        return len(taken)

    def recv(self, count):
        raise OSError(errno.ECONNREFUSED)

    def readinto(self, buffer):
        if not self.incoming:
            if self.eof:
                return 0
            return self._again()
        count = min(len(buffer), len(self.incoming), self.most_at_once)
        buffer[:count] = self.incoming[:count]
        self.incoming = self.incoming[count:]
        return count

    def close(self):
        self.closed = True


class FakeSockets:
    """The module `socket` for a Link; `prepare(sock)` changes each new socket's manners."""

    AF_INET = 2
    SOCK_STREAM = 1
    TCP_NODELAY = 1

    def __init__(self, broker, prepare=None):
        self._broker = broker
        self._prepare = prepare
        self.last = None
        self.asked = []

    def socket(self):
        self.last = FakeSocket(self._broker)
        if self._prepare:
            self._prepare(self.last)
        return self.last

    def getaddrinfo(self, host, port, family, kind):
        if not host.strip("0123456789.") == "":
            raise OSError(-2)
        self.asked.append(host)
        return [(2, 1, 0, "", (host, port))]


def packet_length(data):
    """(remaining length, bytes of the head) of the packet at the start of `data`, or None."""
    length = shift = 0
    for index in range(1, min(5, len(data))):
        length |= (data[index] & 0x7F) << shift
        shift += 7
        if not data[index] & 0x80:
            return length, index + 1
    return None


class FakeBroker:
    """Answers as a broker does, keeps what is published, says what a test wants."""

    def __init__(self):
        self.packets = []
        self.published = []  # (topic, payload, qos, retain, dup, packet id)
        self.subscribed = []
        self.connack = b"\x20\x02\x00\x00"
        self.silent = False
        self.connections = 0
        self._pending = bytearray()
        self.socket = None

    def connected(self, sock):
        self.connections += 1
        self._pending = bytearray()
        self.socket = sock

    def received(self, sock, data):
        self._pending.extend(data)
        while True:
            found = packet_length(self._pending)
            if not found or len(self._pending) < found[0] + found[1]:
                return
            total = found[0] + found[1]
            packet = bytes(self._pending[:total])
            self._pending = self._pending[total:]
            self.packets.append(packet)
            if not self.silent:
                self._answer(packet, found[1])

    def _answer(self, packet, head):
        kind = packet[0] & 0xF0
        body = packet[head:]
        if kind == 0x10:
            self.socket.incoming.extend(self.connack)
        elif kind == 0x80:
            self.subscribed.append(body[4 : 4 + body[3]])
            self.socket.incoming.extend(b"\x90\x03" + body[:2] + b"\x01")
        elif kind == 0xC0:
            self.socket.incoming.extend(b"\xd0\x00")
        elif kind == 0x30:
            self._publish(packet[0], body)

    def _publish(self, first, body):
        length = body[0] << 8 | body[1]
        topic = body[2 : 2 + length]
        body = body[2 + length :]
        qos = first >> 1 & 3
        pid = 0
        if qos:
            pid = body[0] << 8 | body[1]
            self.socket.incoming.extend(b"\x40\x02" + body[:2])
            body = body[2:]
        self.published.append((topic, body, qos, first & 1, first >> 3 & 1, pid))

    def say(self, topic, payload, qos=1, pid=9):
        """Send a message to the client."""
        body = bytes([len(topic) >> 8, len(topic) & 255]) + topic
        if qos:
            body += bytes([pid >> 8, pid & 255])
        body += payload
        length = len(body)
        head = bytearray([0x30 | qos << 1])
        while True:
            head.append(length & 0x7F | (0x80 if length > 0x7F else 0))
            length >>= 7
            if not length:
                break
        self.socket.incoming.extend(bytes(head) + body)


class FakePoller:
    """select.poll of a socket that is writable at once."""

    events = 4  # POLLOUT

    def register(self, sock, flags):
        return None

    def poll(self, timeout):
        return [(1, self.events)] if self.events else []


class RefusedPoller(FakePoller):
    """... whose connection was refused."""

    events = 4 | 8 | 16  # and POLLERR, POLLHUP


class SilentPoller(FakePoller):
    """... whose peer does not answer."""

    events = 0
