"""The SNTP client against real UDP servers on the loopback, on CPython and MicroPython."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from evmeter_tools.bench.time_server import BEHAVIOURS, FORGED, GOOD, KISSES, TimeServer, reply
from evmeter_tools.host_device import micropython, micropython_path
from evmeter_tools.paths import FIRMWARE, HOST_BOARD, ROOT

SCRIPT = Path(__file__).resolve().parent / "ask_time.py"
FLOOR_MS = 1780000000000  # the host's clock is not necessarily after the build
INTERPRETERS = ("micropython", "cpython")


@contextmanager
def _servers(*makers):
    with ExitStack() as stack:
        yield [stack.enter_context(_closing(make())) for make in makers]


@contextmanager
def _closing(server):
    try:
        yield server
    finally:
        server.close()


def _ask(interpreter, *names):
    """What the client says to each of the names."""
    if interpreter == "micropython":
        command = [str(micropython()), "-X", "heapsize=192k"]
        env = dict(os.environ, MICROPYPATH=micropython_path())
    else:
        command = [sys.executable]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(
            str(folder) for folder in (FIRMWARE, ROOT, HOST_BOARD)))
    done = subprocess.run([*command, str(SCRIPT), str(FLOOR_MS), *names], env=env, timeout=60,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_true_servers_are_believed(interpreter):
    with _servers(*(lambda name=name: TimeServer.behaving(name) for name in GOOD)) as servers:
        found = _ask(interpreter, *(server.address for server in servers))
        assert [server.asked for server in servers] == [1] * len(GOOD)
    for unix_ms, here_ms, uncertainty_ms, round_trip_ms in found:
        assert abs(unix_ms - here_ms) <= uncertainty_ms
        assert 0 <= round_trip_ms <= 2 * uncertainty_ms


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_forged_answers_are_refused(interpreter):
    assert len(FORGED) >= 12
    with _servers(*(lambda name=name: TimeServer.behaving(name) for name in FORGED)) as servers:
        found = _ask(interpreter, *(server.address for server in servers))
        assert [server.asked for server in servers] == [1] * len(FORGED)
    refusals = dict(zip(FORGED, found, strict=True))
    for name, text in refusals.items():
        assert isinstance(text, str) and text.startswith("SntpError: "), (name, text)
        assert "no answer" not in text, name  # it came, and was refused


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_kisses_silence_and_a_closed_port(interpreter):
    with _servers(*(lambda name=name: TimeServer.behaving(name) for name in KISSES)) as servers:
        closed = TimeServer()
        closed.close()
        with _closing(TimeServer(lambda question, unix_ms: [])) as silent:
            found = _ask(interpreter, *(server.address for server in servers), silent.address,
                         closed.address)
    assert found[:4] == ["Kiss: the server says RATE", "Kiss: the server says DENY",
                         "Kiss: the server says RSTR", "SntpError: no answer"]
    assert "OSError" in found[4] or "ECONNREFUSED" in found[4] or "Refused" in found[4]


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_what_another_address_sends_never_arrives(interpreter):
    """A third party that sees the question answers from its own port: the right answer counts."""
    day_ms = 86400000
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as third:

        class Overheard(TimeServer):
            def _serve(self):
                while not self._stop.is_set():
                    try:
                        question, peer = self._socket.recvfrom(512)
                    except TimeoutError:
                        continue
                    forged = reply(question, self._clock_ms() + day_ms)
                    for _ in range(20):
                        third.sendto(forged, peer)
                    self._socket.sendto(reply(question, self._clock_ms()), peer)

        with _closing(Overheard()) as server:
            (found,) = _ask(interpreter, server.address)
    assert abs(found[0] - found[1]) <= found[2]


def test_behaviours_are_told_apart():
    assert not set(GOOD) & set(FORGED) and not set(KISSES) & set(FORGED)
    assert len(BEHAVIOURS) == len(GOOD) + len(FORGED) + len(KISSES)
