"""What the composition root does by itself, each without the rest of the device."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from evmeter.app import App
from evmeter.system import trial
from evmeter_tools.host_device import RESTART, HostDevice
from evmeter_tools.paths import FIRMWARE
from fakes.memory_store import MemoryNvs
from fakes.order_app import GIVEN, FakeBoard, Reset


def test_a_signature_that_did_not_verify_raises_an_alarm_once():
    told = []
    app = SimpleNamespace(signer=SimpleNamespace(failures=0), _bad_signatures=0,
                          alarms=SimpleNamespace(happened=lambda *what: told.append(what)))
    for failures, expected in ((0, 0), (1, 1), (1, 1), (3, 2)):
        app.signer.failures = failures
        App._watch_signer(app)
        assert len(told) == expected
    assert told[1][0] == "SIGNATURE_FAULT" and told[1][2] == "3 signature(s) did not verify"
    app.signer = None
    app._bad_signatures = 0
    App._watch_signer(app)
    assert len(told) == 2


def test_a_restart_by_an_order_counts_as_no_short_life():
    nvs = MemoryNvs()
    nvs.set_i32("short", 3)
    resets = []
    app = SimpleNamespace(short_lives=3,
                          board=SimpleNamespace(nvs=nvs, reset=lambda: resets.append(1)))
    app._count_short = lambda short: App._count_short(app, short)
    App.restart(app)
    assert (nvs.get_i32("short"), app.short_lives, resets) == (2, 2, [1])


def test_a_configuration_on_trial_for_which_there_is_no_memory_goes_back():
    """Whatever ends the start, and however early: it would be started for ever."""
    def no_room(settings, hostname):
        raise MemoryError

    board = FakeBoard()
    board.open_network = no_room
    board.write_config(json.dumps({**GIVEN, "rev": 6, "native_signing": True}))
    trial.mark(board.nvs, 6)
    for _ in range(3):
        with pytest.raises(MemoryError):
            App(board)
    with pytest.raises(Reset):
        App(board)
    assert json.loads(board.text)["rev"] == 5
    for _ in range(5):  # the one before is not judged by the trial
        with pytest.raises(MemoryError):
            App(board)


def test_main_puts_it_back_at_once(tmp_path):
    given = {"id": "c", "meter": {"profile": "pulse", "p_max_w": 1000, "imp_per_kwh": 1000},
             "mqtt": {"host": "127.0.0.1", "tls": "off"}}
    HostDevice(tmp_path).write_config(given)
    HostDevice(tmp_path).provision()
    (tmp_path / "config.json").rename(tmp_path / "config.old")
    device = HostDevice(tmp_path, heap="260k")  # too little for either
    device.write_config({**given, "rev": 6})
    held = json.loads((tmp_path / "nvs.json").read_text())
    (tmp_path / "nvs.json").write_text(json.dumps({**held, "cfg_try": 6}))
    command, env = device.command(FIRMWARE / "main.py")
    for code, words in ((RESTART, ""), (1, "MemoryError")):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == code and words in done.stderr, done
        assert json.loads((tmp_path / "config.json").read_text()) == given
    told = bytes.fromhex(json.loads((tmp_path / "nvs.json").read_text())["cfg_bad"])
    assert told.startswith(b"6 ") and b"memory" in told.lower()
