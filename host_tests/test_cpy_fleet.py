"""The fleet: a small one for real, its devices' manners, and what its judge would see."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sql

from evmeter_tools.backend import messages
from evmeter_tools.backend import tables as t
from evmeter_tools.backend.store import Store
from evmeter_tools.fleet import replay
from evmeter_tools.fleet.recorded import record
from evmeter_tools.fleet.run import Fleet

ROOT = Path(__file__).resolve().parents[1]
_ENV = dict(os.environ, PYTHONPATH=str(ROOT / "tools"))


def _fleet(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "evmeter_tools.cli", "fleet", "--dir", str(folder), *arguments],
        env=_ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_small_fleet_is_stored_once_and_acknowledged(tmp_path):
    process = _fleet(tmp_path / "run", "-n", "2", "--devices", "50", "--sessions", "1",
                     "--charge", "3", "--spread", "3", "--json")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    found = json.loads(output)
    assert found["ok"] and found["in_time"]
    assert found["frames"] == found["acknowledged"] > 50 * 10
    assert found["firmware_sessions"] == found["firmware_sound"] == 2
    assert found["firmware_exact"] == 2
    assert found["verified"] >= 2 * (50 + 2)
    assert (found["gaps"], found["doubled"], found["altered"], found["bad"],
            found["quarantined"], found["open_gaps"]) == (0, 0, 0, 0, 0, 0)
    assert found["rss_mib"]["firmware"] > 1 and found["p95_ms"] >= found["p50_ms"] > 0


def _with(folder):
    """The commands of processes that name `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command and int(path.parent.name) != os.getpid():
            found.append(command)
    return found


def test_ctrl_c_ends_all_its_processes(tmp_path):
    process = _fleet(tmp_path / "run", "-n", "1", "--devices", "200", "--spread", "100")
    try:
        lines = iter(process.stdout.readline, "")
        assert any("replay" in line and " s  " in line for line in lines)
        assert len(_with(tmp_path)) > 3
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Ctrl-C" in output
    deadline = time.monotonic() + 20
    while _with(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _with(tmp_path) == []


# -- a device that replays --

def _ack(cum, sel=(), bad=()):
    return json.dumps({"k": "a1b2c3d4", "cum": cum, "sel": list(sel),
                       "bad": [{"seq": seq, "why": "x"} for seq in bad]}).encode()


def test_a_device_keeps_its_window_and_sends_again_what_nobody_has_named():
    device = replay.Device("d", "a1b2c3d4", [("evt", b"%d" % seq) for seq in range(1, 13)])
    assert device.due(100) == ([], list(range(1, 9)))
    assert device.due(101) == ([], [])
    assert list(device.acknowledged(_ack(1, [3]), 100.5)) == [0.5, 0.5]
    assert device.due(102) == ([], [9, 10])
    assert device.due(111) == ([2, 4, 5, 6, 7, 8], [])
    assert device.due(113) == ([9, 10], [])
    assert device.due(130) == ([], [])  # twice as long the second time
    assert device.due(131) == ([2, 4, 5, 6, 7, 8], [])
    list(device.acknowledged(_ack(8, [], [10]), 132))
    assert device.due(132) == ([], [11, 12])
    list(device.acknowledged(_ack(12), 133))
    assert device.done


@pytest.mark.parametrize("payload", [
    _ack(9), _ack(1, [9]), _ack(1, [], [9]), _ack(-1), b"{", b"[]",
    _ack(3).replace(b"a1b2c3d4", b"ffffffff")])
def test_a_device_refuses_what_the_firmware_would(payload):
    device = replay.Device("d", "a1b2c3d4", [("evt", b"x")] * 12)
    device.due(0)
    with pytest.raises(ValueError):
        list(device.acknowledged(payload, 1))
    assert device.cursor == 0 and not device.done


# -- recorded sessions --

def test_recorded_sessions_verify_each_with_a_key_of_its_own(tmp_path):
    devices = [record(number) for number in (1, 2)]
    assert devices[0].spki != devices[1].spki
    trusted = {(device.name, device.key_id): device.spki for device in devices}
    for device in devices:
        entries = [messages.read(device.name, *frame, trusted) for frame in device.frames]
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert all(entry.verdict == "ok" for entry in entries)
        assert [entry.kind for entry in entries if entry.stream == "rec"] == ["begin", "complete"]
    (tmp_path / "recorded").write_text("".join(device.line() for device in devices))
    read = list(replay.read(tmp_path / "recorded"))
    assert [(device.name, device.key_id) for device in read] == [
        (device.name, device.key_id) for device in devices]
    assert read[1].frames == devices[1].frames


def test_the_judge_sees_what_is_missing_altered_or_refused(tmp_path):
    devices = [record(number) for number in (1, 2, 3)]
    fleet = Fleet(tmp_path, 0, 3)
    store = Store(fleet.database)
    for device in devices:
        store.enrol(device.name, device.key_id, device.spki)
        fleet.hashes[device.name] = [hashlib.sha256(payload).hexdigest()
                                     for _, payload in device.frames]
    trusted = store.trusted()
    for device in devices[:2]:
        store.add([messages.read(device.name, *frame, trusted) for frame in device.frames])
    names = ("gaps", "doubled", "altered", "bad", "quarantined")
    third = len(devices[2].frames)
    assert [fleet.judge()[name] for name in names] == [third, 0, 0, 0, 0]
    store.add([messages.read(devices[2].name, *frame, trusted) for frame in devices[2].frames])
    assert [fleet.judge()[name] for name in names] == [0, 0, 0, 0, 0]
    store.add([messages.read(devices[0].name, "evt", devices[0].frames[3][1].replace(
        b'"seq":4', b'"seq":5'), trusted)])  # another content under a stored number
    last = len(devices[1].frames)
    with store.engine.begin() as connection:
        mine = t.records.c.device == devices[1].name
        connection.execute(sql.delete(t.records).where(mine, t.records.c.seq.in_((2, last))))
        connection.execute(sql.update(t.records).where(mine, t.records.c.seq == 3).values(
            sha256="0" * 64, verdict="bad"))
    assert [fleet.judge()[name] for name in names] == [2, 0, 1, 1, 1]
    store.close()
