"""The collector's connection against a broker that is a socket: whatever piece comes at a time."""

import socket

import paho.mqtt.client as paho
import pytest

from evmeter_tools.backend import mqtt
from evmeter_tools.backend.intake import Intake
from evmeter_tools.measure.ingest import packet

_TOPIC = b"evmeter/v1/a/rec"
_CONNACK = {paho.MQTTv311: b"\x20\x02\x00\x00", paho.MQTTv5: b"\x20\x03\x00\x00\x00"}


def _publish(mid, payload, first=0x32, properties=None, topic=_TOPIC):
    return packet(first, len(topic).to_bytes(2, "big") + topic
                  + (mid.to_bytes(2, "big") if first & 6 else b"")
                  + (b"" if properties is None else bytes([len(properties)]) + properties)
                  + payload)


class _Peer:
    """A client, and the broker's end of its connection."""

    def __init__(self, version=paho.MQTTv311):
        self.took = []
        mine, self.end = socket.socketpair()
        self.client = mqtt.client(mqtt.Address("there", 1), "intake", version=version, kind=Intake,
                                  take=lambda *message: self.took.append(message))
        self.client.on_socket_open = None
        self.client._create_socket_connection = lambda: mine
        self.client.connect("there", 1)
        self.client.exchange(0)
        assert self.end.recv(1000)[:1] == b"\x10"
        self.version = version

    def connected(self):
        self.end.send(_CONNACK[self.version])
        self.client.exchange(1)
        assert self.client.is_connected()
        return self

    def said(self, data, each=1000):
        """What was taken of these bytes, sent so many at a time."""
        self.took.clear()
        for first in range(0, len(data), each):
            self.end.send(data[first:first + each])
            self.client.exchange(0, 1000, 9)
        return self.took

    def heard(self):
        self.end.setblocking(False)
        try:
            return self.end.recv(1000)
        except BlockingIOError:
            return b""


@pytest.mark.parametrize("each", [1, 2, 3, 7, 200, 1000])
@pytest.mark.parametrize(("version", "properties"), [
    (paho.MQTTv311, None), (paho.MQTTv5, b""), (paho.MQTTv5, b"\x02\x00\x00\x00\x09")])
def test_messages_come_whole_and_in_order_in_whatever_pieces(each, version, properties):
    peer = _Peer(version).connected()
    long = b"x" * 300
    data = (_publish(1, b"one", properties=properties) + b"\xd0\x00"  # PINGRESP
            + _publish(0x1234, long, first=0x3B, properties=properties)  # DUP and RETAIN
            + _publish(0, b"none", first=0x30, properties=properties)
            + b"\x40\x02\x00\x05"  # PUBACK of nothing of ours
            + _publish(3, b"", properties=properties))
    topic = _TOPIC.decode()
    assert peer.said(data, each) == [
        (1, topic, b"one"), (0x1234, topic, long), (0, topic, b"none"), (3, topic, b"")]
    assert peer.client.is_connected()


def test_a_topic_that_is_no_text_is_a_topic_that_is_refused():
    assert _Peer().connected().said(_publish(1, b"", topic=b"\xff")) == [(1, "\\xff", b"")]


def test_no_more_than_asked_for():
    peer = _Peer().connected()
    peer.end.send(_publish(1, b"one") + _publish(2, b"two"))
    for count in (0, 1, 1, 1):
        peer.client.exchange(0, count, 9)
        assert len(peer.took) <= 1
        peer.took.clear()


def test_confirmations_leave_together_and_never_ahead_of_connect():
    peer = _Peer()
    peer.client.ack(7, 1)
    peer.client.exchange(0)
    assert peer.heard() == b""
    peer.connected()
    for mid in (7, 0, 0x102):  # 0 is a message that wants none
        peer.client.ack(mid, 1)
    assert peer.heard() == b""
    peer.client.exchange(0)
    assert peer.heard() == b"\x40\x02\x00\x07\x40\x02\x01\x02"
    peer.client.ack(8, 1)
    peer.client.disconnect()
    peer.client.exchange(0)
    assert peer.heard() == b"\x40\x02\x00\x08\xe0\x00"
    assert peer.client.socket() is None


def test_the_end_comes_after_what_was_said_before_it():
    peer = _Peer().connected()
    peer.end.send(_publish(1, b"one") + b"\x40\x02\x00\x05" + _publish(2, b"two") + b"\x32\x09")
    peer.end.close()
    peer.client.exchange(0, 1000, 9)
    assert [mid for mid, *_ in peer.took] == [1, 2]
    assert not peer.client.is_connected()
    assert peer.client.socket() is None
    peer.client.exchange(0)  # until it is made anew


@pytest.mark.parametrize("data", [
    b"\x32\xff\xff\xff\xff\x7f", b"\xd0\x80\x80\x80\x80\x80\x00",  # a length of five bytes
    b"\xf0\x00", b"\x32\x02\x00\x05", b"\x32\x03\x00\x05a"])
def test_what_is_no_packet_ends_the_connection(data):
    peer = _Peer().connected()
    assert peer.said(_publish(1, b"one") + data + _publish(2, b"two")) == [
        (1, _TOPIC.decode(), b"one")]
    assert peer.client.socket() is None
