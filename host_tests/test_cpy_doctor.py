"""`evmeter doctor` on the host board and over a serial port: what is well, and what is not."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evmeter.system import doctor as firmware_doctor
from evmeter_tools.bench.stand import Bench
from evmeter_tools.device import run
from evmeter_tools.device.doctor import _PROGRAM
from evmeter_tools.host_device import HostDevice, micropython_path
from repl_device import Chip

ROOT = Path(__file__).resolve().parents[1]
_CHECKS = ["configuration", "key", "journal", "pilot", "meter", "network", "clock", "broker",
           "heap"]


def _doctor(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "evmeter_tools.cli", "doctor", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=200,
        env=dict(os.environ, PYTHONPATH=str(ROOT / "tools")))
    return done.returncode, done.stdout, done.stderr


def _found(*arguments):
    code, out, error = _doctor(*arguments, "--json")
    assert out, error
    found = json.loads(out)
    return code, {one["check"]: (one["result"], one["text"]) for one in found["findings"]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with Bench(tmp_path_factory.mktemp("doctor"), "demo-0001") as made:
        made.rig.tell(pilot="B")
        yield made


def test_a_device_that_is_well(bench):
    code, found = _found("--dir", bench.folder)
    assert code == 0, found
    assert list(found) == _CHECKS
    assert {name for name, (result, _) in found.items() if result != "ok"} == {"broker"}
    result, words = found["broker"]
    assert result == "warn" and "not verified: set mqtt.tls to verified" in words
    assert found["pilot"][1].startswith(("state B (+8.", "state B (+9."))
    assert found["meter"][1] == "Eastron SDM120, serial 21034567 (meter), 1234.567 kWh"


def test_an_examination_is_no_start_of_the_firmware(bench):
    """Ten of them would be ten short lives, after which the network waits for ten minutes."""
    def counts():
        kept = json.loads((bench.folder / "nvs.json").read_text())
        return [kept.get(name, 0) for name in ("boots", "short", "cfg_starts", "cfg_try")]

    path = bench.folder / "nvs.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "cfg_try": 0x7FFFFFFF, "cfg_starts": 2}))
    before = counts()
    for _ in range(2):
        _found("--dir", bench.folder)
    assert counts() == before
    path.write_text(json.dumps(kept))


def test_the_same_over_a_serial_port_for_people(bench, tmp_path):
    chip = Chip(tmp_path, path=micropython_path(), heap="512k",
                EVMETER_HOST_DIR=str(bench.folder))
    try:
        code, out, error = _doctor("--port", chip.port)
    finally:
        chip.close()
    assert (code, chip.resets) == (0, 1), (out, error)
    lines = out.splitlines()
    assert lines[0] == "ok    configuration  demo-0001"
    assert [line[6:21].strip() for line in lines if line[:1].strip()] == _CHECKS
    assert "!     broker         takes the connection, but is not verified:" in out
    assert max(map(len, lines)) <= 80


def test_a_meter_of_another_model_answers_and_refuses(bench):
    path = bench.folder / "config.json"
    held = path.read_text()
    config = json.loads(held)
    config["meter"]["profile"] = "chint_ddsu666"
    path.write_text(json.dumps(config))
    bench.rig.tell(pilot="E")
    code, found = _found("--dir", bench.folder)
    path.write_text(held)
    bench.rig.tell(pilot="A")
    result, words = found["meter"]
    assert (code, result) == (1, "fail")
    assert words.startswith("F: exception 2 from unit 1: it answers, but refuses: check meter.pro")
    assert found["pilot"][1].startswith("state E (+0.0 V / +0.0 V): the pilot is off")


def _wire(bench, folder):
    for name in ("meter.tty", "pilot.bin"):
        (folder / name).symlink_to((bench.folder / name).resolve())


def _broken(bench):
    config = json.loads((bench.folder / "config.json").read_text())
    config["meter"]["unit"] = 9
    config["mqtt"]["port"] = 1
    config["clock"] = {"servers": ["127.0.0.1:1"]}
    return config


def test_what_is_wrong_is_named_with_what_to_do(bench, tmp_path):
    """Everything that can be wrong beside what is well, on one device."""
    bench.rig.tell(pilot="E")
    folder = tmp_path / "broken"
    device = HostDevice(folder)
    device.write_config(_broken(bench))
    _wire(bench, folder)
    code, found = _found("--dir", folder)
    bench.rig.tell(pilot="A")
    assert code == 1
    assert {name: result for name, (result, _) in found.items()} == {
        "configuration": "ok", "key": "fail", "journal": "fail", "pilot": "fail",
        "meter": "fail", "network": "ok", "clock": "fail", "broker": "fail", "heap": "ok"}
    for name, words in (("key", "provision the device"),
                        ("journal", "holds nothing: it is blank: provision the device"),
                        ("pilot", "state E"), ("meter", "'evmeter scan' finds them"),
                        ("clock", "check clock.servers"), ("broker", "check mqtt.host")):
        assert words in found[name][1], found[name]


def test_another_meter_and_another_store_are_told_as_such(bench, tmp_path):
    """What to do must fit what is wrong: --erase would take the records of a sound journal."""
    device = HostDevice(tmp_path)
    config = json.loads((bench.folder / "config.json").read_text())
    device.write_config(config)
    device.provision()
    config["meter"]["serial"] = "999"
    config["journal"] = {"store": "littlefs"}
    device.write_config(config)
    _wire(bench, tmp_path)
    code, found = _found("--dir", tmp_path)
    assert code == 1
    result, words = found["meter"]
    assert result == "fail" and words.startswith("X: serial number is 21034567, configured is 999")
    assert words.endswith("check meter.serial, and which meter is on the line")
    result, words = found["journal"]
    assert result == "fail" and "holds a ring of sectors: set journal.store to what it" in words


@pytest.mark.parametrize(("change", "words"), [
    ({"meter": {"profile": "nosuch", "p_max_w": 11000}}, "nosuch"),
    ({"meter": {"profile": "eastron_sdm120", "p_max_w": 1}}, "meter.p_max_w is 1"),
    ({"colour": "red"}, "unknown field colour: put it right, then provision the device"),
])
def test_a_configuration_that_cannot_be_taken(bench, tmp_path, change, words):
    device = HostDevice(tmp_path)
    _wire(bench, tmp_path)
    config = json.loads((bench.folder / "config.json").read_text())
    device.write_config({**config, **change})
    code, found = _found("--dir", tmp_path)
    assert code == 1 and list(found) == ["configuration"]
    assert found["configuration"][0] == "fail" and words in found["configuration"][1]


def test_damaged_flash_and_a_damaged_key_are_told_and_the_rest_is_examined(bench, tmp_path):
    device = HostDevice(tmp_path)
    device.write_config(json.loads((bench.folder / "config.json").read_text()))
    device.provision()
    _wire(bench, tmp_path)
    (tmp_path / "battery").write_text("stopped")
    (tmp_path / "flash.img").write_bytes(b"junk" * (1 << 20))
    kept = json.loads((tmp_path / "nvs.json").read_text())
    (tmp_path / "nvs.json").write_text(json.dumps({**kept, "key": "ff" * 32}))
    code, found = _found("--dir", tmp_path)
    assert code == 1 and list(found) == _CHECKS
    assert found["key"] == ("fail", "there is no signing key: provision the device")
    assert "something else: read it out with 'evmeter pull-journal', then" in found["journal"][1]
    assert "known, nor to the battery-backed clock: give time serv" in found["clock"][1]
    assert device.provision(True)["k"] != ""  # makes another key
    code, found = _found("--dir", tmp_path)
    assert found["key"][0] == found["journal"][0] == "ok"


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "give the device as --port"),
    (("--port", "/dev/x", "--dir", "."), "give the device as --port"),
    (("--dir", "/nonexistent"), "no run folder"),
])
def test_bad_calls_are_one_line(arguments, words):
    code, out, error = _doctor(*arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert words in error


@pytest.mark.parametrize(("quality", "servers", "clock"), [
    ("U", True, ("fail", "time is not known: the network first")),
    ("I", True, ("ok", "quality I, 2026-09-21 13:46 UTC")),
    ("I", False, ("ok", "quality I, 2026-09-21 13:46 UTC")),
    ("U", False, ("warn", "time is not known: give time servers as clock.servers"))])
def test_without_a_network_each_part_has_its_line_all_the_same(monkeypatch, quality, servers,
                                                               clock):
    async def rest(*_):
        await asyncio.Event().wait()

    app = SimpleNamespace(
        config={"id": "d"}, signer=SimpleNamespace(key_id="x"), time=servers or None,
        clock=SimpleNamespace(quality=quality, now=lambda: (1_789_998_400_000, quality)),
        battery=None, supervisor=SimpleNamespace(run=rest),
        poll=SimpleNamespace(run=rest), forgive=lambda: asyncio.sleep(0))
    network = SimpleNamespace(up=lambda: False, diag=lambda: {"net_why": "no cable"}, run=rest)
    monkeypatch.setattr(firmware_doctor, "App", lambda board, examines: app)
    monkeypatch.setattr(firmware_doctor, "_NETWORK_MS", 200)
    found = {}
    doctor = firmware_doctor.Doctor(SimpleNamespace(network=network),
                                    lambda check, *more: found.update({check: more}))
    for name, nothing in (("_journal", None), ("_heap", None), ("_pilot", asyncio.sleep),
                          ("_meter", asyncio.sleep)):
        monkeypatch.setattr(doctor, name, lambda *_, nothing=nothing: nothing and nothing(0))
    asyncio.run(doctor.run())
    assert list(found) == ["configuration", "key", "network", "clock", "broker"]
    assert found["network"][0] == "fail" and "no cable" in found["network"][1]
    assert found["clock"] == clock
    assert found["broker"] == ("fail", "not reached: the network first")


_INTERRUPTED = """
import asyncio, json
class Firmware:
    turns = 0
    async def task(self):
        while True:
            self.turns += 1
            await asyncio.sleep_ms(10)
    async def main(self):
        asyncio.create_task(self.task())
        await asyncio.sleep_ms(100)
        raise KeyboardInterrupt
app = firmware = Firmware()
try:
    asyncio.run(app.main())
except KeyboardInterrupt:
    before = app.turns
from evmeter.system import doctor
class Doctor:
    failed = 0
    def __init__(self, board, tell):
        pass
    async def run(self):
        await asyncio.sleep_ms(300)
doctor.Doctor = Doctor
%s
print(json.dumps({"before": before, "after": firmware.turns, "held": app is not None}))
"""


def test_the_firmware_that_was_interrupted_does_not_go_on_beside_it(tmp_path):
    """mpremote ends the event loop by Ctrl-C, which leaves every other task in it."""
    (tmp_path / "config.json").write_text("{}")
    found = {}
    for one in run.objects(_INTERRUPTED % _PROGRAM, folder=tmp_path):
        found.update(one)
    assert found["before"] > 3 and found["failed"] == 0
    assert found["after"] == found["before"] and found["held"] is False


def test_a_port_that_is_not_there_is_told_in_one_line(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({
        "id": "c", "meter": {"profile": "eastron_sdm120", "p_max_w": 7400},
        "mqtt": {"host": "h", "tls": "off"}}))
    for words in (["doctor"], ["logs"], ["shell"], ["lock"], ["provision", tmp_path / "c.json"],
                  ["pull-journal", "--out", tmp_path / "x.img"],
                  ["flash", "--board", "esp32_devkit", "--firmware", tmp_path / "c.json"]):
        for port, why in (("/dev/none", "the port /dev/none does not exist"), ("", "--port")):
            done = subprocess.run(
                [sys.executable, "-m", "evmeter_tools.cli", *map(str, words), "--port", port],
                capture_output=True, text=True, check=False, timeout=60,
                env=dict(os.environ, PYTHONPATH=str(ROOT / "tools")))
            assert (done.returncode, done.stdout) == (2, ""), (words, done.stderr)
            assert why in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
