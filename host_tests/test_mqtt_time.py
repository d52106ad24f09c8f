import asyncio

from evmeter.uplink import link as link_module
from evmeter.uplink import mqtt as mqtt_module
from evmeter.uplink.link import Link, LinkError
from evmeter.uplink.mqtt import Session
from fakes.mqtt_session import SETTINGS, begin, error, publish, subscribe_and_hear
from fakes.net import FakeBroker, FakePoller, FakeSockets
from fakes.virtual_time import VirtualTime


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
        session, _ = begin(broker)
        assert "5000 ms" in error(session.connect())
        assert 5000 <= clock.mono_ms() < 5100

    _with_time(play)


def test_an_idle_connection_is_kept_alive_and_a_silent_broker_given_up():
    def play(clock):
        broker = FakeBroker()
        session, _ = begin(broker)
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


def test_a_subscription_that_nobody_answers_ends_the_connection():
    def play(clock):
        broker = FakeBroker()
        session, _ = begin(broker)
        for silent in (True, False):
            asyncio.run(session.connect())  # what was asked before counts no more
            for topic in (b"t/ack", b"t/cmd"):
                session.subscribe(topic, 40000)
                broker.silent = silent
            began_ms = clock.mono_ms()
            try:
                while clock.mono_ms() - began_ms < 20000:
                    for _ in range(20):
                        session.poll()
                    clock.pass_ms(100)
            except LinkError as error:
                assert silent and "subscription" in str(error)
                assert 5000 < clock.mono_ms() - began_ms < 5200
                broker.silent = False
            else:
                assert not silent

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
        session, _ = begin(
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
    session, got = begin(broker)
    assert asyncio.run(_flooded(session, broker)) == 4  # eight at a time
    assert got == [(b"t/cmd", b"%d" % number) for number in range(30)]
    acknowledged = [packet[3] for packet in broker.packets if packet[0] == 0x40]
    assert acknowledged == list(range(1, 31))


def test_a_handler_that_fails_has_its_message_acknowledged_first():
    broker = FakeBroker()

    def fail(topic, payload):
        raise KeyError("handler")

    session = Session(Link(sockets=FakeSockets(broker), poll=FakePoller), "demo-0001", SETTINGS,
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
            session, got = begin(broker)
            asyncio.run(_connect_and_publish(session))
            session.close()
            asyncio.run(subscribe_and_hear(session, broker))
            assert len(got) == len(broker.subscribed) + 1 == 3
            assert broker.connections == 2
    finally:
        mqtt_module.umqtt.MQTTClient = kept


def test_too_much_to_send_at_once_is_an_error():
    broker = FakeBroker()
    session, _ = begin(broker)
    assert "2688" in error(publish(session, b"a/b", bytes(2810), 1, False, 1, False))
    assert issubclass(LinkError, OSError)
