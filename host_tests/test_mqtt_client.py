import asyncio

from evmeter.uplink import mqtt as mqtt_module
from fakes.mqtt_session import begin, error, publish, subscribe_and_hear
from fakes.net import FakeBroker


def test_the_connect_packet_is_exact():
    for changes, expected in (
        ({}, (b"\x10\x27\x00\x04MQTT\x04\x2c\x00\x1e\x00\x09demo-0001"
              b"\x00\x07t/avail\x00\x07offline")),
        ({"user": "u", "password": "pw"},
         (b"\x10\x2e\x00\x04MQTT\x04\xec\x00\x1e\x00\x09demo-0001"
          b"\x00\x07t/avail\x00\x07offline\x00\x01u\x00\x02pw")),
    ):
        broker = FakeBroker()
        session, _ = begin(broker, **changes)
        module = mqtt_module.umqtt.socket
        asyncio.run(session.connect())
        assert broker.packets == [expected], broker.packets
        assert mqtt_module.umqtt.socket is module  # lent for the moment of the connect only


def test_a_refused_connection_says_why():
    for code, word in ((1, "protocol"), (2, "client id"), (3, "unavailable"), (4, "password"),
                       (5, "authorised"), (77, "code 77")):
        broker = FakeBroker()
        broker.connack = bytes([0x20, 2, 0, code])
        session, _ = begin(broker)
        assert word in error(session.connect())


def test_published_packets_carry_the_chosen_id_and_dup():
    for qos, retain, pid, dup in ((0, False, 0, False), (1, False, 1, False),
                                  (1, True, 65535, True), (1, False, 32767, True),
                                  (1, False, 256, False)):
        broker = FakeBroker()
        session, _ = begin(broker)
        payload = b"x" * 300
        asyncio.run(publish(session, b"a/b", memoryview(payload), qos, retain, pid, dup))
        assert broker.published == [(b"a/b", payload, qos, int(retain), int(dup), pid)]


def test_messages_come_whole_and_are_acknowledged():
    broker = FakeBroker()
    session, got = begin(broker)
    asyncio.run(subscribe_and_hear(session, broker))
    assert broker.subscribed == [b"t/ack", b"t/cmd"]
    assert got == [(b"t/ack", b"one"), (b"t/ack", b"y" * 3000), (b"t/cmd", b"")]
    assert [p for p in broker.packets if p[0] == 0x40] == [b"\x40\x02\x00\x09"] * 2


async def _hear(session, broker, data, eof, rounds):
    await session.connect()
    broker.socket.raises_again = True
    broker.socket.incoming.extend(data)
    broker.socket.eof = eof
    for _ in range(rounds):
        session.poll()


def test_a_packet_cut_at_any_byte_is_never_delivered():
    whole = b"\x32\x10\x00\x05t/ack\x00\x09payload"
    for cut in range(len(whole)):
        broker = FakeBroker()
        session, got = begin(broker)
        assert "closed" in error(_hear(session, broker, whole[:cut], True, 10)), cut
        assert got == [], cut
    broker = FakeBroker()
    session, got = begin(broker)
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
        session, got = begin(broker)
        if word:
            assert word in error(_hear(session, broker, data, False, 900)), data[:6]
            assert got == []
        else:
            asyncio.run(_hear(session, broker, data, False, 900))
            assert len(got) == 1


def test_a_message_that_is_too_large_is_acknowledged_and_never_delivered():
    for qos in (0, 1):
        broker = FakeBroker()
        session, got = begin(broker)

        async def hear(session=session, broker=broker, qos=qos):
            await session.connect()
            broker.socket.most_at_once = 600
            broker.say(b"t/ack", b"one")
            for pid in (0x1234, 0x1235):
                broker.say(b"t/ack", b"y" * 4096, qos, pid)
                for _ in range(20):
                    session.poll()
            broker.say(b"t/ack", b"two", 1, 10)
            for _ in range(9):
                session.poll()

        asyncio.run(hear())
        assert got == [(b"t/ack", b"one"), (b"t/ack", b"two")] and session.oversized == 2
        pubacks = [packet[2:] for packet in broker.packets if packet[0] == 0x40]
        assert pubacks == [b"\x00\x09", b"\x12\x34", b"\x12\x35", b"\x00\x0a"][:: 3 - 2 * qos]


def test_a_late_puback_or_a_ping_answer_is_no_message():
    broker = FakeBroker()
    session, got = begin(broker)
    asyncio.run(_hear(session, broker, b"\x40\x02\x30\x31\xd0\x00\x40\x02\x00\x01", False, 10))
    assert got == []


def test_subscribe_and_publish_packets_are_exact():
    broker = FakeBroker()
    session, _ = begin(broker)
    asyncio.run(session.connect())
    session.subscribe(b"t/ack", 32768)
    session.publish(b"a/b", b"hello", 1, True, 0x1234, True)
    session.publish(b"a/b", b"", 1, False, 1)
    session.publish(b"a/b", b"live", 0)
    while not session.flush():
        session.poll()
    assert broker.packets[1:] == [
        b"\x82\x0a\x80\x00\x00\x05t/ack\x01", b"\x3b\x0c\x00\x03a/b\x12\x34hello",
        b"\x32\x07\x00\x03a/b\x00\x01", b"\x30\x09\x00\x03a/blive"]


def test_a_payload_in_place_is_published_like_any_other():
    # 120: one length byte in the head, so that the payload moves by one
    for length in (0, 1, 117, 118, 119, 120, 121, 122, 123, 2560):
        broker = FakeBroker()
        session, _ = begin(broker)
        asyncio.run(session.connect())
        payload = bytes([32 + n % 90 for n in range(length)])
        area = session.payload_area(b"a/b")
        area[:length] = payload
        session.publish(b"a/b", area[:length], 1, False, 7)
        while not session.flush():
            session.poll()
        assert broker.published == [(b"a/b", payload, 1, 0, 0, 7)], length


def test_a_refused_subscription_is_an_error():
    broker = FakeBroker()
    session, _ = begin(broker)
    assert "subscription" in error(_hear(session, broker, b"\x90\x03\x80\x00\x80", False, 9))


def test_what_is_no_broker_is_told_so():
    for answer in (b"HTTP/1.1 400 Bad Request\r\n" * 4, b"\x20\x03\x00\x00\x00",
                   b"\xd0\x00", b"\x15\x03\x01\x00\x02\x02\x46"):  # the last: TLS alert
        broker = FakeBroker()
        broker.connack = answer
        session, _ = begin(broker)
        assert "no MQTT broker" in error(session.connect())
