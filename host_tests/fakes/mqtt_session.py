"""A session of uplink/mqtt.py with a broker in memory."""

import asyncio

from evmeter.uplink.link import Link
from evmeter.uplink.mqtt import Session
from fakes.net import FakePoller, FakeSockets

SETTINGS = {"host": "127.0.0.1", "port": 1883, "user": None, "password": None,
             "keepalive_s": 30}


def begin(broker, prepare=None, **changes):
    got = []
    link = Link(sockets=FakeSockets(broker, prepare), poll=FakePoller)
    session = Session(link, "demo-0001", dict(SETTINGS, **changes), b"t/avail",
                      lambda topic, payload: got.append((bytes(topic), bytes(payload))))
    return session, got


def error(coroutine):
    try:
        asyncio.run(coroutine)
    except OSError as error:
        return str(error)
    raise AssertionError("no error")


async def publish(session, *args):
    await session.connect()
    session.publish(*args)
    while not session.flush():
        await asyncio.sleep_ms(0)


async def subscribe_and_hear(session, broker):
    await session.connect()
    session.subscribe(b"t/ack", 40000)
    session.subscribe(b"t/cmd", 65535)
    broker.say(b"t/ack", b"one")
    broker.say(b"t/ack", b"y" * 3000, 0)
    broker.say(b"t/cmd", b"")
    for _ in range(700):
        session.poll()
