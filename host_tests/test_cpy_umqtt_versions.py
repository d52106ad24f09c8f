"""The uplink on each version of umqtt.simple that a device may have, frozen in or installed."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from evmeter_tools.backend.broker import Broker, find_mosquitto
from evmeter_tools.host_device import _path, micropython, micropython_path
from fakes import umqtt_versions
from fakes.umqtt_versions import VERSIONS
from fakes.uplink_backend import Backend, check, undisturbed

_TESTS = Path(__file__).resolve().parent
_SHARED = ("test_mqtt_client", "test_mqtt_time", "test_uplink_hostile")
_START = ("import runpy, sys, cpython_shim; cpython_shim.install(); sys.argv = sys.argv[1:]; "
          "runpy.run_path(sys.argv[0], run_name='__main__')")


def _run(interpreter, version, folder, script, *words):
    """Its standard output."""
    umqtt_versions.write(folder, version)
    if interpreter == "micropython":
        if micropython() is None:
            pytest.fail("MicroPython is missing; run 'make setup'")
        command = [str(micropython()), "-X", "heapsize=192k"]
        env = dict(os.environ, MICROPYPATH="%s:%s" % (folder, micropython_path(_TESTS)))
    else:
        command = [sys.executable, "-c", _START]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), *_path(_TESTS)]))
    done = subprocess.run([*command, str(_TESTS / script), *map(str, words)], env=env,
                          capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class _Socket:
    """Socket and module `socket` for a bare client: reads give the prepared answer."""

    def __init__(self, answer):
        self.answer = answer
        self.written = bytearray()
        self.closed = 0
        self.timeouts = []

    def socket(self):
        return self

    def getaddrinfo(self, *_):
        return [(None,)]

    def write(self, data, length=None):
        self.written += data[:length]

    def read(self, count):
        piece, self.answer = self.answer[:count], self.answer[count:]
        return piece

    def connect(self, address):
        return None

    setblocking = connect

    def settimeout(self, seconds):
        self.timeouts.append(seconds)

    def close(self):
        self.closed += 1


def _client(version, answer):
    found = {}
    exec(compile(umqtt_versions.source(version), version, "exec"), found)  # noqa: S102
    sock = found["socket"] = _Socket(answer)
    client = found["MQTTClient"](b"cid", "10.0.0.1")
    client.set_callback(lambda topic, message: None)
    client.sock = sock
    return client, sock, found["MQTTException"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_stand_ins_differ_in_what_they_stand_for(version):
    assert ("usocket" in umqtt_versions.source(version)) == (version < "1.6.0")
    client, _, _ = _client(version, b"\x30\x05\x00\x01ahi")
    assert client.wait_msg() == (None if version < "1.4.0" else 0x30)
    client, sock, _ = _client(version, b"\x20\x02\x00\x00")
    if version < "1.6.0":
        with pytest.raises(TypeError):
            client.connect(False, timeout=3)
    else:
        client.connect(False, timeout=3)
        assert (sock.timeouts, sock.closed) == ([3], 1)
    assert hasattr(client, "unsubscribe") == (version >= "1.7.0")
    client, sock, _ = _client(version, b"\x90\x03\x00\x01\x01")
    if version < "1.8.0":
        with pytest.raises(struct.error):  # the length has one byte
            client.subscribe(b"t" * 300, 1)
    else:
        client.subscribe(b"t" * 300, 1)
        assert sock.written[:5] == b"\x82\xb1\x02\x00\x01" and sock.written[-1:] == b"\x01"
    client, _, refused = _client(version, b"\x20")
    with pytest.raises(refused if version >= "1.8.0" else IndexError):
        client.connect(False)


@pytest.mark.parametrize("interpreter", ["micropython", "cpython"])
@pytest.mark.parametrize("version", VERSIONS[1:])
def test_the_uplinks_tests_hold(version, interpreter, tmp_path):
    for number, name in enumerate(_SHARED):
        folder = tmp_path / str(number)
        folder.mkdir()
        output = _run(interpreter, version, folder, "run_micropython.py", name)
        assert " passed, 0 failed" in output.splitlines()[-1], output


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_frames_pass_through_mosquitto(version, tmp_path):
    if not find_mosquitto():
        pytest.fail("mosquitto is missing; run 'make setup'")
    broker = Broker(tmp_path / "broker", kind="mosquitto").start()
    backend = None
    try:
        backend = Backend(broker.port)
        output = _run("micropython", version, tmp_path, "fakes/uplink_device.py", broker.port, 300,
                      4, 700)
        check(backend, 300, 700)
    finally:
        if backend:
            backend.close()
        broker.stop()
    figures = json.loads(output.splitlines()[-1])
    assert figures["refused"] == 0
    undisturbed(figures)
