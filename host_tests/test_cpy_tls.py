"""The firmware's TLS against servers that are wrong in one way each, and against mosquitto."""

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from evmeter_tools.bench.tls_servers import (
    BAD,
    REASONS,
    Certificates,
    Server,
    TlsBroker,
    unencrypted,
)
from evmeter_tools.host_device import micropython, micropython_path
from fakes import tls_device
from fakes.uplink_backend import Backend, check, deliver, undisturbed

_TESTS = Path(__file__).resolve().parent
_DAY_S = 86400
_INTERPRETERS = ("micropython", "cpython")


def _attempt(interpreter, certificates, port, now_s=None, insecure=False,
             host="localhost"):
    now_s = int(time.time()) if now_s is None else now_s
    ca = certificates.folder / "ca.pem"
    if interpreter == "cpython":
        return asyncio.run(tls_device.attempt(host, port, str(ca), now_s, insecure))
    if micropython() is None:
        pytest.fail("MicroPython is missing; run 'make setup'")
    done = subprocess.run(
        [str(micropython()), "-X", "heapsize=192k", str(_TESTS / "fakes" / "tls_device.py"),
         host, str(port), str(ca), str(now_s), "1" if insecure else "0"],
        env=dict(os.environ, MICROPYPATH=micropython_path(_TESTS)), capture_output=True,
        text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(certificates):
    servers = []

    def start(kind, version="1.3"):
        servers.append(Server(certificates, kind, version))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_server_gets_no_byte_and_one_reason(interpreter, version, kind, certificates,
                                                  serve):
    server = serve(kind, version)
    figures = _attempt(interpreter, certificates, server.port)
    print(kind, figures)
    server.close()
    assert figures["why"].startswith(REASONS[kind])
    assert (server.connections, server.application_bytes) == (1, 0)
    assert not figures["insecure"]


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
@pytest.mark.parametrize("kind", ["good", *BAD[:-1]])
def test_without_verification_all_of_them_are_told_the_password(interpreter, kind, certificates,
                                                                serve):
    server = serve(kind)
    figures = _attempt(interpreter, certificates, server.port, insecure=True)
    server.close()
    assert figures["insecure"]
    assert "not authorised" in figures["why"]
    assert server.application_bytes > 40


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
@pytest.mark.parametrize(("days", "kind"), [(400, "expired"), (-3, "not yet valid")])
def test_dates_are_held_against_the_firmwares_clock(interpreter, days, kind, certificates, serve):
    server = serve("good")
    figures = _attempt(interpreter, certificates, server.port,
                       int(time.time()) + days * _DAY_S)
    server.close()
    assert figures["why"] == REASONS[kind]
    assert server.application_bytes == 0


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_a_broker_may_be_known_by_its_address(interpreter, certificates, serve):
    server = serve("good address")
    figures = _attempt(interpreter, certificates, server.port, host="127.0.0.1")
    assert "not authorised" in figures["why"]  # so that server refuses everyone
    server = serve("good")
    figures = _attempt(interpreter, certificates, server.port, host="127.0.0.1")
    server.close()
    assert figures["why"] == REASONS["wrong name"]
    assert server.application_bytes == 0


def test_the_count_of_unencrypted_bytes_counts():
    hello = b"\x16\x03\x01\x00\x05hello"
    for data, count in ((b"", 0), (hello, 0), (hello + b"\x15\x03\x03\x00\x02\x02\x46", 0),
                        (hello + b"\x10\x27", 2), (b"\x10\x27\x00\x04MQTT", 8),
                        (hello + b"\x17\x03\x03\x00\x01x", 6)):
        assert unencrypted(data) == count, data


@pytest.fixture(params=[False, True], ids=["anonymous", "client certificate"])
def broker(request, certificates, tmp_path):
    broker = TlsBroker(tmp_path / "broker", certificates, request.param)
    broker.start()
    yield broker
    broker.stop()


def _frames(certificates, broker, interpreter):
    backend = Backend(broker.port)
    words = [broker.tls_port, 500, 4, 700, str(certificates.folder / "ca.pem")]
    if broker.wants:
        words.append(str(certificates.make("client")))
    try:
        return backend, deliver(interpreter, *words)
    finally:
        backend.close()


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_frames_pass_over_tls(interpreter, certificates, broker):
    backend, figures = _frames(certificates, broker, interpreter)
    print(interpreter, figures)
    check(backend, 500, 700)
    assert figures["refused"] == 0
    if undisturbed(figures):
        assert backend.received == 500


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_mosquitto_says_what_is_missing(interpreter, certificates, broker):
    why = _attempt(interpreter, certificates, broker.tls_port)["why"]
    if broker.wants:  # whether the alert or the end of the connection is seen first, is chance
        assert "client certificate" in why or "closed" in why or "lost" in why
    else:
        assert why == ""
    assert _attempt(interpreter, certificates, broker.port)["why"].startswith("no TLS there: ")
