"""The prompt on the host board's console: closed, opened, and what a closed device does."""

import json
import os
import time

import pytest
from typer.testing import CliRunner

from evmeter_tools.bench.console import ConsoleDevice
from evmeter_tools.bench.stand import Bench
from evmeter_tools.cli import app
from evmeter_tools.errors import UserError
from evmeter_tools.faults import uart
from evmeter_tools.host_device import micropython_path
from evmeter_tools.operator import signing
from repl_device import Chip

_KEYS = b"\x01\x02\x03\x04\x05A\x01\r\x03\x03\r\x01print(6 * 7)\x04\r\n"


def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _command(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def _types(device):
    """Type what asks for a prompt; whether Python answers."""
    for _ in range(5):
        device.type(_KEYS)
        time.sleep(0.1)
    return device.answers()


def test_closed_at_commissioning_and_opened_by_a_signed_command(tmp_path):
    pem = tmp_path / "operator.pem"
    key = signing.make_key(pem)
    config = {"operator": {"keys": [signing.spki(key)]}}
    with Bench(tmp_path / "bench", "demo-0001", config=config, interpreter="micropython") as bench:
        out = _command("provision", bench.folder / "config.json", "--dir", bench.folder)
        assert "the prompt is closed: evmeter unlock demo-0001" in out
        device = bench.device = ConsoleDevice(bench.folder)
        watch = bench.watch
        try:
            device.start()
            _until(lambda: watch.count("boot") == 1)
            bench.rig.tell(pilot="C", load_w=10000)
            _until(lambda: watch.count("open") == 1)
            assert not _types(device)
            assert (device.prompts, device.restarts) == (0, 0)
            order = ("demo-0001", "--key", pem, "--broker", bench.broker)
            assert "with its prompt open" in _command("unlock", *order)
            _until(lambda: watch.count("resume") == 1)
            assert "with its prompt closed" in _command("lock", *order)
            _until(lambda: watch.count("resume") == 2)
            assert not _types(device)
            _command("unlock", *order)
            _until(lambda: watch.count("resume") == 3)
            assert (watch.count("unlock"), watch.count("lock")) == (2, 1)
            assert {body["by"] for name, body in watch.events if name.endswith("lock")} == {
                signing.key_id(key)}
            bench.rig.tell(pilot="A")
            _until(lambda: watch.count("close") == 1)
            assert device.prompts == 0
            _until(device.answers)
            assert device.prompts
        finally:
            device.close()


def _closed(folder, **change):
    config = {"id": "demo-0001", "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
              "mqtt": {"host": "127.0.0.1", "tls": "off"}, **change}
    device = ConsoleDevice(folder)
    device.write_config(config)
    (folder / "nvs.json").write_text(json.dumps({"lock": 1}))
    return device


def test_a_closed_device_that_cannot_start_restarts_and_says_why(tmp_path):
    device = _closed(tmp_path)  # there is no port for the meter
    try:
        device.start()
        _until(lambda: device.restarts > 2)
        device.type(_KEYS)
        assert device.prompts == 0 and not device.answers()
        assert b"port cannot be opened" in (tmp_path / "device.log").read_bytes()
    finally:
        device.close()


def test_the_button_at_a_start_opens_it(tmp_path):
    device = _closed(tmp_path)
    (tmp_path / "button").touch()
    try:
        device.start()
        _until(lambda: device.prompts)
        _until(device.answers)
        assert json.loads((tmp_path / "nvs.json").read_text())["lock"] == 0
    finally:
        device.close()


def test_without_a_way_back_it_is_not_closed(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"id": "demo-0001", "mqtt": {"host": "h", "tls": "off"}, "meter": {
        "profile": "eastron_sdm120", "p_max_w": 11000}}))
    out = _command("provision", file, "--dir", tmp_path / "run")
    assert "the prompt stays open: without operator.keys" in out
    out = _command("provision", file, "--dir", tmp_path / "run", "--open")
    assert "prompt" not in out


@pytest.fixture
def line(tmp_path):
    """A line for the meter, with nobody on it."""
    ends = os.openpty()
    (tmp_path / "meter.tty").symlink_to(os.ttyname(ends[1]))
    yield
    for end in ends:
        os.close(end)


# what only the device finds out: a certificate that is none, a meter that signs no records
_CANNOT = [({"mqtt": {"host": "127.0.0.1", "ca": "bm9uZQ=="}}, "mqtt: the ca is neither"),
           ({"meter": {"profile": "eastron_sdm120", "p_max_w": 11000, "pass_through": True}},
            "meter: pass_through is true")]


@pytest.mark.parametrize(("change", "why"), [
    ({}, None), ({"operator": {}}, "nothing could open it again"),
    ({"colour": "red"}, "unknown field colour"), (None, "error 2"), *_CANNOT])
@pytest.mark.usefixtures("line")
def test_over_a_port_it_is_closed_only_where_there_is_a_way_back(tmp_path, change, why):
    key = signing.spki(signing.make_key(tmp_path / "operator.pem"))
    if change is not None:
        _closed(tmp_path, **{"operator": {"keys": [key]}, **change})
        (tmp_path / "nvs.json").write_text("{}")
    chip = Chip(tmp_path, path=micropython_path(), heap="512k", EVMETER_HOST_DIR=str(tmp_path))
    try:
        if why:
            with pytest.raises(UserError, match=why):
                _command("lock", "--port", chip.port)
        else:
            assert "the prompt is closed" in _command("lock", "--port", chip.port)
    finally:
        chip.close()
    held = json.loads((tmp_path / "nvs.json").read_text()) if change is not None else {}
    assert ("lock" in held) is (why is None) and chip.resets == 1


@pytest.mark.parametrize(("change", "why"), _CANNOT[1:])  # the tool itself refuses the first
@pytest.mark.usefixtures("line")
def test_it_is_not_closed_on_a_device_that_cannot_start(tmp_path, change, why):
    """It would restart for ever, never reach the broker, and be out of reach on its port."""
    key = signing.spki(signing.make_key(tmp_path / "operator.pem"))
    file = tmp_path / "c.json"
    file.write_text(json.dumps({
        "id": "demo-0001", "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
        "mqtt": {"host": "127.0.0.1", "tls": "off"}, "operator": {"keys": [key]}, **change}))
    with pytest.raises(UserError, match="cannot start, the prompt stays open: " + why):
        _command("provision", file, "--dir", tmp_path)
    assert "lock" not in json.loads((tmp_path / "nvs.json").read_text())
    # the same device, put right
    file.write_text(file.read_text().replace('"pass_through": true', '"pass_through": false'))
    assert "the prompt is closed" in _command("provision", file, "--dir", tmp_path)


def test_lock_and_unlock_say_what_is_missing(tmp_path):
    for words, why in ((["lock"], "or its --port"),
                       (["lock", "x", "--port", "y"], "or its --port"),
                       (["lock", "x"], "give the operator's key"),
                       (["unlock", "x", "--key", tmp_path / "no.pem"], "no.pem"),
                       (["lock", "--port", "/dev/nosuch"], "/dev/nosuch")):
        with pytest.raises(UserError, match=why):
            _command(*words)


def test_random_bytes_into_every_uart():
    result = uart.uart(4000)
    assert result.texts == []
    assert result.trials >= 4000 and result.good and len(result.controls) == 1
    assert result.counts["bytes into a starting device"] > 1000
    assert result.counts["readings in them"] > 1
