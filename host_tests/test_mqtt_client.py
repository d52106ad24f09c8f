import asyncio

from evmeter.uplink.link import Link, LinkError
from evmeter.uplink.mqtt import Session
from fakes.net import FakeBroker, FakePoller, FakeSockets

_SETTINGS = {"host": "127.0.0.1", "port": 1883, "user": None, "password": None,
             "keepalive_s": 30}


def _session(broker, **changes):
    got = []
    link = Link(sockets=FakeSockets(broker), poll=FakePoller)
    session = Session(link, "demo-0001", dict(_SETTINGS, **changes), b"t/avail",
                      lambda topic, payload: got.append((bytes(topic), bytes(payload))))
    return session, got


def _error(coroutine):
    try:
        asyncio.run(coroutine)
    except OSError as error:
        return str(error)
    raise AssertionError("no error")


def test_the_connect_packet_is_exact():
    for changes, expected in (
        ({}, (b"\x10\x27\x00\x04MQTT\x04\x2c\x00\x1e\x00\x09demo-0001"
              b"\x00\x07t/avail\x00\x07offline")),
        ({"user": "u", "password": "pw"},
         (b"\x10\x2e\x00\x04MQTT\x04\xec\x00\x1e\x00\x09demo-0001"
          b"\x00\x07t/avail\x00\x07offline\x00\x01u\x00\x02pw")),
    ):
        broker = FakeBroker()
        session, _ = _session(broker, **changes)
        asyncio.run(session.connect())
        assert broker.packets == [expected], broker.packets


def test_a_refused_connection_says_why():
    for code, word in ((1, "protocol"), (2, "client id"), (3, "unavailable"), (4, "password"),
                       (5, "authorised"), (77, "code 77")):
        broker = FakeBroker()
        broker.connack = bytes([0x20, 2, 0, code])
        session, _ = _session(broker)
        assert word in _error(session.connect())


async def _publish(session, *args):
    await session.connect()
    await session.publish(*args)


def test_published_packets_carry_the_chosen_id_and_dup():
    for qos, retain, pid, dup in ((0, False, 0, False), (1, False, 1, False),
                                  (1, True, 65535, True), (1, False, 32767, True),
                                  (1, False, 256, False)):
        broker = FakeBroker()
        session, _ = _session(broker)
        payload = b"x" * 300
        asyncio.run(_publish(session, b"a/b", memoryview(payload), qos, retain, pid, dup))
        assert broker.published == [(b"a/b", payload, qos, int(retain), int(dup), pid)]


async def _subscribe_and_hear(session, broker):
    await session.connect()
    await session.subscribe(b"t/ack")
    await session.subscribe(b"t/cmd")
    broker.say(b"t/ack", b"one")
    broker.say(b"t/ack", b"y" * 3000, 0)
    broker.say(b"t/cmd", b"")
    for _ in range(700):
        await session.poll()


def test_messages_come_whole_and_are_acknowledged():
    broker = FakeBroker()
    session, got = _session(broker)
    asyncio.run(_subscribe_and_hear(session, broker))
    assert broker.subscribed == [b"t/ack", b"t/cmd"]
    assert got == [(b"t/ack", b"one"), (b"t/ack", b"y" * 3000), (b"t/cmd", b"")]
    assert [p for p in broker.packets if p[0] == 0x40] == [b"\x40\x02\x00\x09"] * 2


async def _hear(session, broker, data, eof, rounds):
    await session.connect()
    broker.socket.raises_again = True
    broker.socket.incoming.extend(data)
    broker.socket.eof = eof
    for _ in range(rounds):
        await session.poll()


def test_a_packet_cut_at_any_byte_is_never_delivered():
    whole = b"\x32\x10\x00\x05t/ack\x00\x09payload"
    for cut in range(len(whole)):
        broker = FakeBroker()
        session, got = _session(broker)
        assert "closed" in _error(_hear(session, broker, whole[:cut], True, 10)), cut
        assert got == [], cut
    broker = FakeBroker()
    session, got = _session(broker)
    asyncio.run(_hear(session, broker, whole, False, 10))
    assert got == [(b"t/ack", b"payload")]


def test_malformed_packets_close_the_connection():
    for data, word in (
        (b"\x30\xff\xff\xff\x7f", "allowed: 4096"),
        (b"\x30\xff\xff\xff\xff\x01", "length"),
        (b"\x30\x80\x20" + bytes(4096), ""),       # just within the limit, topic length 0
        (b"\x30\x04\x00\x09ab", "shorter"),        # topic longer than the packet
        (b"\x32\x04\x00\x02ab", "shorter"),        # no packet id
        (b"\x34\x06\x00\x02ab\x00\x01", "QoS 2"),
        (b"\x10\x00", "unexpected"),
        (b"\x00\x00", "unexpected"),
        (b"\x30\x00", "shorter"),
    ):
        broker = FakeBroker()
        session, got = _session(broker)
        if word:
            assert word in _error(_hear(session, broker, data, False, 900)), data[:6]
            assert got == []
        else:
            asyncio.run(_hear(session, broker, data, False, 900))
            assert len(got) == 1


def test_a_late_puback_or_a_ping_answer_is_no_message():
    broker = FakeBroker()
    session, got = _session(broker)
    asyncio.run(_hear(session, broker, b"\x40\x02\x30\x31\xd0\x00\x40\x02\x00\x01", False, 10))
    assert got == []


def test_too_much_to_send_at_once_is_an_error():
    broker = FakeBroker()
    session, _ = _session(broker)
    assert "2816" in _error(_publish(session, b"a/b", bytes(2810), 1, False, 1, False))
    assert issubclass(LinkError, OSError)
