import asyncio

from evmeter.uplink import link as link_module
from evmeter.uplink import mqtt as mqtt_module
from evmeter.uplink.link import Link, LinkError
from evmeter.uplink.mqtt import Session
from fakes.net import FakeBroker, FakePoller, FakeSockets
from fakes.virtual_time import VirtualTime

_SETTINGS = {"host": "127.0.0.1", "port": 1883, "user": None, "password": None,
             "keepalive_s": 30}


def _session(broker, prepare=None, **changes):
    got = []
    link = Link(sockets=FakeSockets(broker, prepare), poll=FakePoller)
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
        module = mqtt_module.umqtt.socket
        asyncio.run(session.connect())
        assert broker.packets == [expected], broker.packets
        assert mqtt_module.umqtt.socket is module  # lent for the moment of the connect only


def test_a_refused_connection_says_why():
    for code, word in ((1, "protocol"), (2, "client id"), (3, "unavailable"), (4, "password"),
                       (5, "authorised"), (77, "code 77")):
        broker = FakeBroker()
        broker.connack = bytes([0x20, 2, 0, code])
        session, _ = _session(broker)
        assert word in _error(session.connect())


async def _publish(session, *args):
    await session.connect()
    session.publish(*args)
    while not session.flush():
        await asyncio.sleep_ms(0)


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
    session.subscribe(b"t/ack", 40000)
    session.subscribe(b"t/cmd", 65535)
    broker.say(b"t/ack", b"one")
    broker.say(b"t/ack", b"y" * 3000, 0)
    broker.say(b"t/cmd", b"")
    for _ in range(700):
        session.poll()


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
        session.poll()


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


def test_subscribe_and_publish_packets_are_exact():
    broker = FakeBroker()
    session, _ = _session(broker)
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
        session, _ = _session(broker)
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
    session, _ = _session(broker)
    assert "subscription" in _error(_hear(session, broker, b"\x90\x03\x80\x00\x80", False, 9))


def test_what_is_no_broker_is_told_so():
    for answer in (b"HTTP/1.1 400 Bad Request\r\n" * 4, b"\x20\x03\x00\x00\x00",
                   b"\xd0\x00", b"\x15\x03\x01\x00\x02\x02\x46"):  # the last: TLS alert
        broker = FakeBroker()
        broker.connack = answer
        session, _ = _session(broker)
        assert "no MQTT broker" in _error(session.connect())


def _with_time(play):
    """Call `play(clock)` with both modules on a virtual clock."""
    kept = link_module.time, mqtt_module.time, mqtt_module.asyncio
    clock = VirtualTime()
    link_module.time = mqtt_module.time = mqtt_module.asyncio = clock
    try:
        play(clock)
    finally:
        link_module.time, mqtt_module.time, mqtt_module.asyncio = kept


def test_a_broker_that_never_answers_the_connect_is_given_up():
    def play(clock):
        broker = FakeBroker()
        broker.silent = True
        session, _ = _session(broker)
        assert "5000 ms" in _error(session.connect())
        assert 5000 <= clock.mono_ms() < 5100

    _with_time(play)


def test_an_idle_connection_is_kept_alive_and_a_silent_broker_given_up():
    def play(clock):
        broker = FakeBroker()
        session, _ = _session(broker)
        asyncio.run(session.connect())
        for second in range(100):
            session.poll()
            clock.pass_ms(1000)
        pings = broker.packets.count(b"\xc0\x00")
        assert 5 <= pings <= 7, pings  # every keepalive/2 of 15 s
        broker.silent = True
        try:
            for second in range(30):
                session.publish(b"t/tel", b"live", 0)  # sending does not hide the silence
                clock.pass_ms(1000)
                session.poll()
        except LinkError as error:
            assert "ping" in str(error)
            assert second <= 21
        else:
            raise AssertionError("not noticed")

    _with_time(play)


async def _connect_and_publish(session):
    await session.connect()
    session.publish(b"t/rec", b"payload", 1, False, 5)
    while not session.flush():
        await asyncio.sleep_ms(0)


def test_a_reset_at_any_byte_is_an_error_and_leaves_no_part_of_a_message():
    connect = 41
    whole = connect + 2 + 2 + 5 + 2 + 7
    for cut in range(whole):
        broker = FakeBroker()
        dies = [cut]
        session, _ = _session(
            broker, lambda sock: setattr(sock, "dies_after", dies.pop() if dies else None))
        try:
            asyncio.run(_connect_and_publish(session))
        except OSError as error:
            assert "connection lost (" in str(error)
        else:
            raise AssertionError("no error at %d" % cut)
        session.close()
        assert broker.published == []
        asyncio.run(_connect_and_publish(session))
        assert broker.published == [(b"t/rec", b"payload", 1, 0, 0, 5)], cut


async def _flooded(session, broker):
    await session.connect()
    broker.socket.most_at_once = 1000
    for number in range(30):
        broker.say(b"t/cmd", b"%d" % number, 1, number + 1)
    rounds = 0
    while session.poll():
        rounds += 1
    return rounds


def test_a_flood_is_taken_in_portions_and_nothing_is_lost():
    broker = FakeBroker()
    session, got = _session(broker)
    assert asyncio.run(_flooded(session, broker)) == 4  # eight at a time
    assert got == [(b"t/cmd", b"%d" % number) for number in range(30)]
    acknowledged = [packet[3] for packet in broker.packets if packet[0] == 0x40]
    assert acknowledged == list(range(1, 31))


def test_a_handler_that_fails_has_its_message_acknowledged_first():
    broker = FakeBroker()

    def fail(topic, payload):
        raise KeyError("handler")

    session = Session(Link(sockets=FakeSockets(broker), poll=FakePoller), "demo-0001", _SETTINGS,
                      b"t/avail", fail)
    try:
        asyncio.run(_flooded(session, broker))
    except KeyError:
        assert [packet for packet in broker.packets if packet[0] == 0x40]
    else:
        raise AssertionError("no error")


class _Newer(mqtt_module.umqtt.MQTTClient):
    """umqtt.simple 1.6.0 and 1.7.0 (frozen in ESP32 firmware 1.25 to 1.28): a timeout for the
    socket, an answer from wait_msg. 1.4.0 (firmware 1.24) has neither, as 1.3.4."""

    def connect(self, clean_session=True, timeout=None):
        self.sock = mqtt_module.umqtt.socket.socket()
        self.sock.settimeout(timeout)
        return super().connect(clean_session)

    def wait_msg(self):
        kind = super().wait_msg()
        return 0x30 if kind is None else kind


class _Newest(_Newer):
    """... 1.8.0 (firmware 1.29): closes its old socket, SUBSCRIBE with a length of up to four
    bytes, in pieces of other sizes."""

    def connect(self, clean_session=True, timeout=None):
        if self.sock:
            self.sock.close()
        return super().connect(clean_session, timeout)

    def subscribe(self, topic, qos=0):
        self.pid += 1
        length = 2 + 2 + len(topic) + 1
        head = bytearray(b"\x82")
        while length > 0x7F:
            head.append(length & 0x7F | 0x80)
            length >>= 7
        head.append(length)
        self.sock.write(head)
        self.sock.write(self.pid.to_bytes(2, "big"))
        self._send_str(topic)
        self.sock.write(qos.to_bytes(1, "little"))
        while self.wait_msg() != 0x90:
            continue
        answer = self.sock.read(4)
        if answer[1:3] != self.pid.to_bytes(2, "big"):
            raise AssertionError("another packet id")


def test_the_versions_frozen_in_esp32_firmware_work_too():
    kept = mqtt_module.umqtt.MQTTClient
    try:
        for version in (_Newer, _Newest):
            mqtt_module.umqtt.MQTTClient = version
            broker = FakeBroker()
            session, got = _session(broker)
            asyncio.run(_connect_and_publish(session))
            session.close()
            asyncio.run(_subscribe_and_hear(session, broker))
            assert len(got) == len(broker.subscribed) + 1 == 3
            assert broker.connections == 2
    finally:
        mqtt_module.umqtt.MQTTClient = kept


def test_too_much_to_send_at_once_is_an_error():
    broker = FakeBroker()
    session, _ = _session(broker)
    assert "2816" in _error(_publish(session, b"a/b", bytes(2810), 1, False, 1, False))
    assert issubclass(LinkError, OSError)
