"""A backend on a real broker that confirms what it has seen, and devices to deliver to it."""

import asyncio
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from evmeter_tools.host_device import micropython, micropython_path
from fakes import uplink_device
from fakes.memory_journal import SeriesJournal

_TESTS = Path(__file__).resolve().parents[1]
ROOT = "evmeter/v1/%s/" % uplink_device.NAME
_LIMIT_S = 240  # so slow is no machine
_SHORTEST_MS = 5000  # of the uplink's deadlines
_STREAMS = ("evt", "ivl", "log", "rec")


class Backend:
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
        assert self._ready.wait(_LIMIT_S)

    def _connected(self, client, *_):
        client.subscribe([(ROOT + stream, 1) for stream in (*_STREAMS, "avail")])
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
        client.publish(ROOT + "ack", json.dumps({
            "v": 1, "k": uplink_device.KEY_ID, "cum": self._cum,
            "sel": [seq] if seq > self._cum else [], "bad": []}), 1)
        action = self.at.pop(self.received, None)
        if action:
            action()

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def start_micropython(*words):
    if micropython() is None:
        pytest.fail("MicroPython is missing; run 'make setup'")
    return subprocess.Popen(
        [str(micropython()), "-X", "heapsize=192k", str(_TESTS / "fakes" / "uplink_device.py"),
         *map(str, words)],
        env=dict(os.environ, MICROPYPATH=micropython_path(_TESTS)), stdout=subprocess.PIPE,
        text=True)


def deliver(interpreter, *words):
    if interpreter == "cpython":
        return asyncio.run(asyncio.wait_for(uplink_device.deliver(*words), _LIMIT_S))
    device = start_micropython(*words)
    try:
        output, _ = device.communicate(timeout=_LIMIT_S)
    finally:
        device.kill()
        device.wait()
    assert device.returncode == 0, output
    return json.loads(output.splitlines()[-1])


def check(backend, frames, payload_bytes):
    journal = SeriesJournal(frames, payload_bytes, uplink_device.KEY_ID)
    assert sorted(backend.frames) == list(range(1, frames + 1))
    assert all(backend.frames[seq] == journal.payload(seq) for seq in backend.frames)
    assert all(backend.topics[seq] == ROOT + ("rec", "evt", "ivl", "log")[seq % 4]
               for seq in backend.frames)
    assert backend.conflicts == 0


def undisturbed(figures):
    """Whether nothing was sent twice, nothing connected twice: which may be only where the machine
    stood still for longer than the uplink waits."""
    again = figures["reconnects"] or figures["resends"]
    assert not again or figures["ms"] > _SHORTEST_MS, figures
    return not again
