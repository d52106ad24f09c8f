"""The real uplink against the real mosquitto, with a backend that confirms what it has seen."""

import os
import signal
import threading
import time

import pytest

from evmeter_tools.backend.broker import Broker, find_mosquitto
from fakes.uplink_backend import Backend, check, deliver, start_micropython, undisturbed


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
    backend = Backend(broker.port)
    yield backend
    backend.close()


@pytest.mark.parametrize("interpreter", ["micropython", "cpython"])
def test_nothing_is_lost_when_the_broker_is_killed(broker, backend, interpreter):
    killed = threading.Event()

    def kill():
        os.kill(broker.pid, signal.SIGKILL)
        killed.set()

    def restart():
        if killed.wait(120):
            broker.kill()  # reaps it
            broker.start()

    backend.at[150] = kill
    restarter = threading.Thread(target=restart)
    restarter.start()
    figures = deliver(interpreter, broker.port, 500, 4, 700)
    restarter.join()
    print(interpreter, figures)
    check(backend, 500, 700)
    assert figures["reconnects"] >= 1
    assert figures["refused"] == 0


@pytest.mark.parametrize("window", [1, 4, 8])
def test_frames_of_the_largest_size_pass(broker, backend, window):
    figures = deliver("micropython", broker.port, 200, window, 2560)
    print(window, figures)
    check(backend, 200, 2560)
    assert figures["refused"] == 0
    if undisturbed(figures):
        assert backend.received == 200


def test_the_window_is_limited_by_the_round_trip_not_by_pauses(broker, backend):
    figures = deliver("micropython", broker.port, 2000, 4, 600)
    print("%d frames/s" % (2000 * 1000 // figures["ms"]), figures)
    check(backend, 2000, 600)
    if undisturbed(figures):
        assert backend.received == 2000


def test_the_last_will_tells_that_the_device_is_gone(broker, backend):
    device = start_micropython(broker.port, 10**9, 1, 600)
    try:
        _until(lambda: backend.avail and backend.avail[-1] == b"online")
    finally:
        device.kill()
        device.wait()
    _until(lambda: backend.avail[-1] == b"offline")


def _until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
