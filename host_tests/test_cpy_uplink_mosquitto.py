"""The real uplink against the real mosquitto, with a backend that confirms what it has seen."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from evmeter_tools.backend.broker import Broker, find_mosquitto
from evmeter_tools.host_device import micropython, micropython_path
from fakes import uplink_device
from fakes.memory_journal import SeriesJournal

_TESTS = Path(__file__).resolve().parent
_ROOT = "evmeter/v1/%s/" % uplink_device.NAME
_STREAMS = ("evt", "ivl", "log", "rec")


class _Backend:
    """Keeps each frame's payload, confirms at once; `at[n]` is called when the nth one comes."""

    def __init__(self, port):
        self.frames = {}
        self.topics = {}
        self.received = 0
        self.conflicts = 0
        self.avail = []
        self.at = {}
        self._cum = 0
        self._ready = threading.Event()
        self._client = client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id="backend", clean_session=False)
        client.on_message = self._message
        client.on_connect = self._connected
        client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.will_set("evmeter/v1/_host/state", '{"online":false}', 1, True)
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert self._ready.wait(10)

    def _connected(self, client, *_):
        client.subscribe([(_ROOT + stream, 1) for stream in (*_STREAMS, "avail")])
        client.publish("evmeter/v1/_host/state", '{"online":true,"ts":1}', 1, True)
        self._ready.set()

    def _message(self, client, _data, message):
        if message.topic.endswith("/avail"):
            self.avail.append(message.payload)
            return
        seq = json.loads(message.payload)["seq"]
        if self.frames.setdefault(seq, message.payload) != message.payload:
            self.conflicts += 1
        self.topics[seq] = message.topic
        self.received += 1
        while self._cum + 1 in self.frames:
            self._cum += 1
        client.publish(_ROOT + "ack", json.dumps({
            "v": 1, "k": uplink_device.KEY_ID, "cum": self._cum,
            "sel": [seq] if seq > self._cum else [], "bad": []}), 1)
        action = self.at.pop(self.received, None)
        if action:
            action()

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path):
    if not find_mosquitto():
        pytest.fail("mosquitto is missing; run 'make setup'")
    broker = Broker(tmp_path / "broker", kind="mosquitto")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def backend(broker):
    backend = _Backend(broker.port)
    yield backend
    backend.close()


def _start_micropython(*words):
    if micropython() is None:
        pytest.fail("MicroPython is missing; run 'make setup'")
    return subprocess.Popen(
        [str(micropython()), "-X", "heapsize=128k", str(_TESTS / "fakes" / "uplink_device.py"),
         *map(str, words)],
        env=dict(os.environ, MICROPYPATH=micropython_path(_TESTS)), stdout=subprocess.PIPE,
        text=True)


def _deliver(interpreter, *words):
    if interpreter == "cpython":
        return asyncio.run(asyncio.wait_for(uplink_device.deliver(*words), 60))
    device = _start_micropython(*words)
    try:
        output, _ = device.communicate(timeout=60)
    finally:
        device.kill()
        device.wait()
    assert device.returncode == 0, output
    return json.loads(output.splitlines()[-1])


def _check(backend, frames, payload_bytes):
    journal = SeriesJournal(frames, payload_bytes, uplink_device.KEY_ID)
    assert sorted(backend.frames) == list(range(1, frames + 1))
    assert all(backend.frames[seq] == journal.payload(seq) for seq in backend.frames)
    assert all(backend.topics[seq] == _ROOT + ("rec", "evt", "ivl", "log")[seq % 4]
               for seq in backend.frames)
    assert backend.conflicts == 0


@pytest.mark.parametrize("interpreter", ["micropython", "cpython"])
def test_nothing_is_lost_when_the_broker_is_killed(broker, backend, interpreter):
    killed = threading.Event()

    def kill():
        os.kill(broker.pid, signal.SIGKILL)
        killed.set()

    def restart():
        if killed.wait(30):
            broker.kill()  # reaps it
            broker.start()

    backend.at[150] = kill
    restarter = threading.Thread(target=restart)
    restarter.start()
    figures = _deliver(interpreter, broker.port, 500, 4, 700)
    restarter.join()
    print(interpreter, figures)
    _check(backend, 500, 700)
    assert figures["reconnects"] >= 1
    assert figures["refused"] == 0


@pytest.mark.parametrize("window", [1, 4, 8])
def test_frames_of_the_largest_size_pass(broker, backend, window):
    figures = _deliver("micropython", broker.port, 200, window, 2560)
    print(window, figures)
    _check(backend, 200, 2560)
    assert backend.received == 200
    assert (figures["reconnects"], figures["resends"], figures["refused"]) == (0, 0, 0)


def test_the_window_is_limited_by_the_round_trip_not_by_pauses(broker, backend):
    figures = _deliver("micropython", broker.port, 2000, 4, 600)
    print("%d frames/s" % (2000 * 1000 // figures["ms"]), figures)
    _check(backend, 2000, 600)
    assert backend.received == 2000


def test_the_last_will_tells_that_the_device_is_gone(broker, backend):
    device = _start_micropython(broker.port, 10**9, 1, 600)
    try:
        _until(lambda: backend.avail and backend.avail[-1] == b"online")
    finally:
        device.kill()
        device.wait()
    _until(lambda: backend.avail[-1] == b"offline")


def _until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
