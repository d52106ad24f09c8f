"""The figures' arithmetic and the table; nothing here judges a time."""

import hashlib
import json

import pytest
import typer
from typer.testing import CliRunner

from evmeter_tools.errors import UserError
from evmeter_tools.fleet import recorded
from evmeter_tools.measure import command, ingest, modbus, vm, wear


def _measure(monkeypatch, tmp_path, figures, *arguments):
    monkeypatch.setattr(command, "FILE", tmp_path / "bench.json")
    monkeypatch.setattr(command, "BUILD", tmp_path / "build")
    monkeypatch.setattr(command, "FIGURES", figures)
    app = typer.Typer()
    app.command()(command.measure)
    return CliRunner().invoke(app, list(arguments))


def test_least_wire_time_by_hand():
    # 2 requests of 8, replies of 33 and 17, twice 3.5 characters; 100 ms of latency and pause each
    assert modbus.least_ms(9600) == pytest.approx((16 + 50 + 7) * 10 / 9.6 + 200)
    assert modbus.least_ms(2400) - 200 == pytest.approx(4 * (modbus.least_ms(9600) - 200))


def test_command_prints_and_writes_the_figures(monkeypatch, tmp_path):
    figures = [command.Figure(("poll_alloc_bytes",),
                              lambda: [("poll_alloc_bytes", 513, "on " + "a machine " * 20)]),
               command.Figure(("sign_speedup_python",),
                              lambda: [("sign_speedup_python", 140.0, "")])]
    done = _measure(monkeypatch, tmp_path, figures)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.output.splitlines())
    assert done.output.count("missed") == 1
    assert json.loads((tmp_path / "bench.json").read_text()) == {
        "poll_alloc_bytes": 513, "sign_speedup_python": 140.0}
    done = _measure(monkeypatch, tmp_path, figures, "--json", "--only", "sign_speedup_python")
    assert json.loads(done.output) == {"sign_speedup_python": 140.0}
    done = _measure(monkeypatch, tmp_path, figures, "--only", "moon")
    assert isinstance(done.exception, UserError)


def test_every_figure_has_a_key_and_a_reach():
    keys = [key for figure in command.FIGURES for key in figure.keys]
    assert sorted(keys) == sorted(set(keys))
    # what is told beside them, for comparison
    assert set(keys) - set(command.REACH) == {
        "sign_garbage_bytes", "sign_heap_min_kib", "sign_against_starkbank_ecdsa",
        "sign_against_ecdsa", "reconnect_first_ack_ms",
        "ingest_session_ratio"}


def test_bytes_allocated_by_a_poll_are_fewer_than_the_peers():
    if not (vm.BUILD / "downloads" / "micropython-modbus-2.3.7.tar.gz").exists():
        pytest.skip("micropython-modbus was not fetched; 'evmeter measure' does it")
    ours = vm.host().run("poll_alloc.py", "5")
    theirs = vm.host().run("peer_alloc.py", "5", path=(vm.SCRIPTS, vm.peer()))
    assert ours["import_mwh"] == 1138664063
    assert theirs["kwh"] == pytest.approx(1138.664, abs=0.001)
    assert ours["bytes"] <= 1024 < theirs["bytes"]


def test_a_package_that_is_not_the_pinned_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(vm, "BUILD", tmp_path)
    archive = tmp_path / "downloads" / "micropython-modbus-2.3.7.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"another")
    assert hashlib.sha256(b"another").hexdigest() != vm._PEERS["micropython-modbus"][1]
    with pytest.raises(UserError, match="pinned"):
        vm.peer()


def test_a_script_that_fails_is_one_line():
    with pytest.raises(UserError, match="wire.py: boom"):
        vm.result("wire.py", 1, "", "Traceback\nboom\n")
    with pytest.raises(UserError, match="no output"):
        vm.result("wire.py", 0, "", "")


def test_a_session_has_what_the_figure_says(monkeypatch):
    monkeypatch.setattr(wear, "_WARM", 1)
    monkeypatch.setattr(wear, "_SESSIONS", 2)
    for store in ("littlefs", "ring"):
        found = {key: (value, how) for key, value, how in wear.stores(store)}
        value, how = found["erases_per_session"]
        assert 0 < value < 40 and how.startswith(store)
        assert found["wear_ten_years_percent"][0] > 0


def test_every_frame_is_sent_once_in_its_device_s_order():
    devices = [recorded.record(number, 2) for number in range(70)]
    sent = ingest.as_sent(devices)
    for device in devices:
        assert [frame[3:] for frame in sent if frame[0] == device.name] == device.frames
    assert sent != [frame for device in devices for frame in sent if frame[0] == device.name]


def test_the_collector_is_measured_with_all_of_its_checks():
    devices = [recorded.record(number, 2, signed=True) for number in range(6)]
    both, records = ingest.rounds(devices, 2)
    assert records == sum(len(device.frames) for device in devices) == 30
    for found in both:
        assert set(found) == {"receive", "check", "insert", "collect"}
        assert all(part["cpu_s"] > 0 and part["wall_s"] > 0 for part in found.values())
        assert found["collect"]["sound"] == found["collect"]["taken"] == records
    stream, payload = devices[0].frames[1]
    devices[0].frames[1] = stream, payload.replace(b'"kind":"begin"', b'"kind":"tariff"')
    with pytest.raises(UserError, match="29 of 30"):
        ingest.rounds(devices, 1)
