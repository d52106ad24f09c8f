"""The collector's connection: paho's own, past which the messages that come are read.

paho reads a packet in four calls of the system and writes each in one, which costs a collector
more than all of its database. Here many are read and written at a time; PUBLISH is taken apart
here, and every other packet is paho's, which is given whole ones.
"""

import select
import ssl
import time

import paho.mqtt.client as paho

from evmeter_tools.backend import mqtt

_CHUNK = 65536
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_LONGEST_HEAD = 5  # bytes of a length; one more than MQTT allows, which paho finds
_PUBLISH = 0x30
_PUBACK = b"\x40\x02"


def _length(data, at, end):
    """(the number of variable length at `at`, what follows it); beyond `end` where it is not
    there whole, 0 where it is longer than MQTT allows."""
    length = 0
    for place in range(_LONGEST_HEAD):
        if at >= end:
            return 1, end
        byte = data[at]
        at += 1
        length |= (byte & 127) << 7 * place
        if byte < 128 and place < _LONGEST_HEAD - 1:
            return length, at
    return 0, at


class _Stream:
    """A socket for paho: it reads what it is `grant`ed, and what it writes waits for `flush`."""

    def __init__(self, sock):
        self._sock = sock
        self._came = bytearray()
        self._at = 0  # of the next packet
        self._granted = b""
        self._unsent = bytearray()
        self.fault = None  # an OSError, or b"" where the other side has closed
        self.is_over = False  # paho may see the fault: all that came before it was read

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recv(self, most):
        """What paho may read."""
        data, self._granted = self._granted[:most], self._granted[most:]
        if data:
            return data
        if not self.is_over:
            raise BlockingIOError
        if self.fault:
            raise self.fault
        return b""

    def send(self, data):
        """All of it, with the next flush."""
        self._unsent += data
        return len(data)

    def flush(self):
        """Write what waits, as far as it is taken."""
        try:
            while self._unsent:
                del self._unsent[:self._sock.send(self._unsent)]
        except _LATER:
            pass
        except OSError as error:
            self.fault = error

    def close(self):
        """Close it; what is said last is sent before."""
        self.flush()
        self._sock.close()

    def fill(self, wait_s):
        """Wait for more and read it; returns whether there is more, or a fault."""
        if self.fault is not None:
            return True
        if self._sock.fileno() < 0:
            self.fault = b""
            return True
        # what TLS has already deciphered does not show on the socket
        if not getattr(self._sock, "pending", int)() and not select.select(
                [self._sock], [], [], wait_s)[0]:
            return False
        del self._came[:self._at]
        self._at = 0
        try:
            data = self._sock.recv(_CHUNK)
        except _LATER:
            return False
        except OSError as error:
            self.fault = error
            return True
        self._came += data
        if not data:
            self.fault = b""
        return True

    def packet(self):
        """(first byte, from, to) of the next packet and its body, None where it is not there
        whole. A length that is none ends where it cannot go on."""
        came = self._came
        length, head = _length(came, self._at + 1, len(came))
        if head + length > len(came):
            return None
        return came[self._at], head, head + length

    def publish(self, first, head, end, has_properties):
        """Take the PUBLISH of which that is the first byte, and this the body: (packet id, topic,
        payload), the id 0 with QoS 0. None where it is another packet or does not fit."""
        came, qos = self._came, first >> 1 & 3
        if first & 0xF0 != _PUBLISH or qos > 1:
            return None
        at = head + 2 + int.from_bytes(came[head:head + 2], "big")
        body = at + 2 * qos
        if has_properties:
            length, body = _length(came, body, end)
            body += length
        if body > end:
            return None
        self._at = end
        return (int.from_bytes(came[at:at + 2], "big") if qos else 0,
                came[head + 2:at].decode("utf-8", "backslashreplace"), bytes(came[body:end]))

    def grant(self, end):
        """Let paho have the packet that ends there."""
        self._granted = bytes(self._came[self._at:end])
        self._at = end


class Intake(mqtt.Client):
    """A client without a thread: it works in `exchange`. `take(packet id, topic, payload)` is
    called for each message, which `ack` confirms; the id is 0 with QoS 0."""

    def __init__(self, *arguments, take, **more):
        super().__init__(*arguments, manual_ack=True, **more)
        self._take = take
        # packets wait until they are written, all those of a batch together
        self.on_socket_register_write = lambda *_: None

    def _create_socket(self):
        return _Stream(super()._create_socket())

    def ack(self, mid, _qos):
        """Only while connected: what is queued before goes ahead of CONNECT, upon which a broker
        hangs up."""
        if mid and self.is_connected():
            self.socket().send(_PUBACK + mid.to_bytes(2, "big"))

    def exchange(self, wait_s, most=1, within_s=0.0):
        """Write what waits, then read what has come, until `most` messages came or the time is
        over; wait up to `wait_s` for the first. Keep the connection alive. Returns whether it
        may have left some."""
        stream = self.socket()
        if stream is None:
            return False
        leaves = True
        self._write(stream)
        has_properties = self.protocol == paho.MQTTv5
        deadline = time.monotonic() + within_s
        while most > 0 and self.socket() is stream:
            packet = stream.packet()
            if packet is None:
                if stream.fault is not None:
                    stream.is_over = True
                    self.loop_read()
                    break
                if not stream.fill(wait_s):
                    leaves = False
                    break
                wait_s = 0
                continue
            first, head, end = packet
            message = stream.publish(first, head, end, has_properties)
            if message:
                most -= 1
                self._take(*message)
            else:
                stream.grant(end)
                self.loop_read()
            if time.monotonic() > deadline:
                break
        self._write(stream)
        self.loop_misc()
        return leaves

    def _write(self, stream):
        if self.want_write():
            self.loop_write()
        stream.flush()
