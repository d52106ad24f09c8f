"""The resolver against a name server on loopback, with a stranger who answers faster."""

import asyncio
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from evmeter_tools.host_device import micropython, micropython_path
from fakes import resolver_device

_TESTS = Path(__file__).resolve().parent
_TIMEOUT_S = 60


class _NameServer:
    """Answers on 127.0.0.1:`port`; before each answer somebody else sends one from elsewhere."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.queries = []
        self.peers = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            query, peer = self._socket.recvfrom(600)
            if query == b"end":
                return
            self.queries.append(query)
            self.peers.append(peer)
            answer = (query[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + query[12:]
                      + b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(answer + bytes([6, 6, 6, 6]), peer)
            if b"\x06absent" in query:
                self._socket.sendto(query[:2] + b"\x81\x83" + query[4:], peer)
            elif b"\x06silent" not in query:
                self._socket.sendto(answer + bytes([10, 0, 0, 7]), peer)

    def close(self):
        self._socket.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


def _look_up(interpreter, port, *names):
    if interpreter == "cpython":
        return asyncio.run(resolver_device.look_up(port, names))
    if micropython() is None:
        pytest.fail("MicroPython is missing; run 'make setup'")
    done = subprocess.run(
        [str(micropython()), "-X", "heapsize=192k",
         str(_TESTS / "fakes" / "resolver_device.py"), str(port), *names],
        env=dict(os.environ, MICROPYPATH=micropython_path(_TESTS)), capture_output=True,
        text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("interpreter", ["micropython", "cpython"])
def test_names_are_found_on_real_sockets(interpreter):
    server = _NameServer()
    try:
        found = _look_up(interpreter, server.port, "broker.example", "10.1.2.3",
                         "absent.example", "silent.example")
    finally:
        server.close()
    assert found[:2] == ["10.0.0.7", "10.1.2.3"]
    assert "no such name" in found[2] and "does not answer" in found[3]
    assert len(server.queries) == 5  # those without an answer twice
    assert len({query[:2] for query in server.queries}) > 3
    assert len(set(server.peers)) > 3


@pytest.mark.parametrize("interpreter", ["micropython", "cpython"])
def test_nobody_at_the_port_is_an_error(interpreter):
    server = _NameServer()
    server.close()
    (why,) = _look_up(interpreter, server.port, "broker.example")
    assert why.startswith("broker.example: name server")
