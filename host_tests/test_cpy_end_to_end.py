"""The whole firmware on the host board, with emulated meter, mosquitto and collector."""

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evmeter_tools.backend.sessions import balance, device_report
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import Bench
from evmeter_tools.bench.view import View
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice, micropython
from evmeter_tools.journal.image import open_image
from evmeter_tools.journal.scan import scan
from evmeter_tools.verify.check import check_record
from host_nvs import NvsFile
from verifiers import mutations, node, pyocmf_accepts

ROOT = Path(__file__).resolve().parents[1]
_ENV = dict(os.environ, PYTHONPATH=str(ROOT / "tools"))
_CONFIG = {"id": "demo-0001", "meter": {"profile": "eastron_sdm120", "p_max_w": 11000},
           "mqtt": {"host": "127.0.0.1", "port": 1, "tls": "off"}}


class _Play:
    """A bench on which a test plays sessions."""

    def __init__(self, bench):
        self.bench = bench
        self.watch = bench.watch

    def until(self, condition, seconds=120, collecting=True):
        deadline = time.monotonic() + seconds
        while not condition():
            if collecting:
                self.bench.check()
            assert time.monotonic() < deadline, self.watch.lines[-20:]
            time.sleep(0.05)

    def count(self, name, number):
        self.until(lambda: self.watch.count(name) >= number)

    def charge(self, energy_mwh, load_w=10000):
        start_mwh = self.bench.register_mwh()
        self.bench.rig.tell(pilot="C", load_w=load_w)
        self.until(lambda: self.bench.register_mwh() - start_mwh >= energy_mwh)

    def start(self, boots):
        self.bench.device.start()
        self.count("boot", boots)

    def settled(self):
        self.until(lambda: self.watch.head and self.watch.confirmed >= self.watch.head)

    def outcome(self):
        """(report, balance) after everything is confirmed; checks what must always hold."""
        self.settled()
        final_mwh = self.bench.final_register_mwh()
        store = Store(self.bench.database)
        report = device_report(store, self.bench.device_id)
        sums = balance(store, self.bench.device_id)
        assert not store.quarantined()
        store.close()
        assert report.ok, [record.reasons for record in report.records]
        pages = [record.page for record in report.records]
        assert pages == list(range(1, len(pages) + 1))
        assert sums.missing == ()
        assert sums.exact
        accounted_mwh = sums.sessions_mwh + sums.outside_mwh
        trailing_mwh = final_mwh - sums.last_mwh
        assert accounted_mwh + trailing_mwh == final_mwh - self.bench.start_mwh
        return report, sums


class _Watched(HostDevice):
    """Runs the firmware with a look at each write of its flash."""

    def command(self, script):
        watch = Path(__file__).parent / "watch_flash.py"
        return super().command(watch if script.name == "main.py" else script)


def _writes_well(log, store):
    """The flash was written, never between a request and its reply; the other store is not
    loaded."""
    assert "WRITTEN" not in log
    assert "written 15 times" in log
    assert set(re.findall(r"^loaded: (.*)$", log, re.MULTILINE)) == {
        "ring": {"ring", "sectors", "small_files"}, "littlefs": {"segments"}}[store]


@pytest.mark.parametrize(("interpreter", "store"), [
    ("micropython", "ring"), ("micropython", "littlefs"), ("cpython", "ring")])
def test_a_session_broken_by_a_power_cut_goes_on_with_its_gap_declared(tmp_path, interpreter,
                                                                       store):
    with Bench(tmp_path, "demo-0001", interpreter=interpreter, checkpoint_s=5,
               config={"journal": {"store": store}}) as bench:
        bench.device = _Watched(bench.folder, interpreter)
        play = _Play(bench)
        play.start(1)
        play.charge(8000)
        bench.device.cut_power()
        time.sleep(1)
        play.start(2)
        play.count("resume", 1)
        play.charge(4000)
        bench.rig.tell(pilot="A")
        play.count("close", 1)
        report, sums = play.outcome()
    assert [session.state for session in report.sessions] == ["complete"]
    assert report.sessions[0].end.tx == "E"
    assert 0 < sums.gap_mwh < sums.sessions_mwh
    _writes_well((tmp_path / "device.log").read_text(), store)
    assert scan(open_image(tmp_path / "flash.img"), NvsFile(str(tmp_path / "nvs.json"))).ok
    _all_verifiers_agree(bench.spki, [record.text for record in report.records])
    left = scan(open_image(bench.device.folder / "flash.img"))
    assert left.ok, left.faults
    assert left.ended_unix_ms and not left.session


def _all_verifiers_agree(key, records):
    """Each record holds before all verifiers, and none of them takes a changed one."""
    assert [text.count('"TX":"B"') for text in records] == [1] * len(records)
    changed = [text for record in records for text in mutations(record)[::11]]
    for text in records:
        assert check_record(text, key).ok
        assert pyocmf_accepts(key, text)
    for text in changed:
        assert not check_record(text, key).ok, text
        assert not pyocmf_accepts(key, text), text
    assert node(key, records) == [True] * len(records)
    assert True not in node(key, changed)


def test_without_a_clock_the_session_is_closed_by_power_failure_and_a_new_one_opens(tmp_path):
    with Bench(tmp_path, "demo-0001", battery=False) as bench:
        play = _Play(bench)
        play.start(1)
        play.charge(5000)
        bench.device.cut_power()
        time.sleep(1)
        play.start(2)
        play.count("close", 1)
        play.count("open", 2)
        play.charge(3000)
        bench.rig.tell(pilot="A")
        play.count("close", 2)
        report, sums = play.outcome()
    assert [session.end.tx for session in report.sessions] == ["P", "E"]
    assert report.sessions[0].quality == "U"
    assert sums.gap_mwh > 0


def test_a_watchdog_reset_and_a_dead_backend_cost_nothing(tmp_path):
    with Bench(tmp_path, "demo-0001", battery=False) as bench:
        play = _Play(bench)
        play.start(1)
        play.charge(3000)
        bench.end_collector()
        play.count("open", 1)
        bench.rig.tell(pilot="B")
        play.until(lambda: play.watch.status.get("cp") == "B", collecting=False)
        asked = bench.rig.status["requests"]
        play.until(lambda: bench.rig.status["requests"] >= asked + 8, collecting=False)
        bench.device.watchdog_reset()
        play.watch.status = {}
        bench.device.start()
        play.until(lambda: play.watch.status.get("sid") and play.watch.status["cp"] == "B",
                   collecting=False)
        bench.rig.tell(pilot="A")
        play.until(lambda: play.watch.status["sid"] == "", collecting=False)
        bench.start_collector()
        play.count("close", 1)
        report, sums = play.outcome()
    assert [session.end.tx for session in report.sessions] == ["E"]
    assert sums.gap_mwh == 0


def test_after_ten_short_lives_the_device_meters_before_all_else(tmp_path):
    with Bench(tmp_path, "demo-0001") as bench:
        play = _Play(bench)
        nvs = json.loads((bench.folder / "nvs.json").read_text())
        (bench.folder / "nvs.json").write_text(json.dumps({**nvs, "short": 10}))

        def kinds():
            entries = scan(open_image(bench.device.folder / "flash.img")).entries
            return [entry.message.get("kind") or entry.message.get("ev") for entry in entries]

        bench.device.start()
        play.until(lambda: "boot" in kinds())
        play.charge(8000)
        bench.rig.tell(pilot="A")
        play.until(lambda: "close" in kinds())
        assert {"begin", "complete"} < set(kinds())
        assert not play.watch.count("boot")  # nothing has been sent
        bench.device.cut_power()
        assert json.loads((bench.folder / "nvs.json").read_text())["short"] == 11
        (bench.folder / "nvs.json").write_text(json.dumps({**nvs, "short": 0}))
        bench.device.start()
        play.count("close", 1)
        play.outcome()


@pytest.mark.parametrize(("store", "laid", "said"), [
    ("ring", "littlefs", "a littlefs"), ("littlefs", "ring", "a ring of sectors"),
    ("ring", None, "something else"), ("littlefs", None, "something else")])
def test_a_foreign_or_damaged_journal_is_told_and_kept_and_metering_goes_on(tmp_path, store, laid,
                                                                            said):
    with Bench(tmp_path, "demo-0001", config={"journal": {"store": laid or store}}) as bench:
        flash = tmp_path / "flash.img"
        if laid:
            config = json.loads((tmp_path / "config.json").read_text())
            bench.device.write_config({**config, "journal": {"store": store}})
        else:
            flash.write_bytes(random.Random(5).randbytes(flash.stat().st_size))
        image = flash.read_bytes()
        play = _Play(bench)
        bench.device.start()
        bench.rig.tell(pilot="C", load_w=10000)

        def told(*words):
            return lambda: any(all(word in line for word in words)
                               for _, line in play.watch.lines)

        play.until(told("JOURNAL", "flash holds " + said))
        play.until(told("SESSION_REFUSED", "journal not usable"))
        assert (tmp_path / "permit").read_text() == "0"
        play.until(lambda: play.watch.telemetry)
        first_mwh = play.watch.telemetry["e_mwh"]
        play.until(lambda: play.watch.telemetry["e_mwh"] > first_mwh + 3000)
        assert {"JOURNAL_FAULT", "SESSION_REFUSED"} <= set(play.watch.status["al"])
        assert play.watch.telemetry["q"] == "G" and not play.watch.events
        bench.device.watchdog_reset()
        with pytest.raises(UserError, match="the flash holds %s, which was left" % said):
            bench.device.provision()
        assert flash.read_bytes() == image
        assert bench.device.provision(erase=True)["formatted"]
        assert not bench.device.provision()["formatted"]
        play.start(1)


def test_an_outage_of_the_broker_costs_nothing(tmp_path):
    with Bench(tmp_path, "demo-0001") as bench:
        play = _Play(bench)
        play.start(1)
        play.charge(3000)
        bench._broker.kill()
        time.sleep(1)
        bench.rig.tell(pilot="A")
        time.sleep(2)
        bench._broker.start()
        # who watches may be back later than the device, and has heard of nothing then
        play.until(lambda: _stored(bench.database, "close"))
        report, _ = play.outcome()
    assert len(report.sessions) == 1


def _stored(database, kind):
    store = Store(database)
    found = [json.loads(row.payload) for row in store.rows() if row.kind == kind]
    store.close()
    return found


def test_the_bench_reads_a_meter_on_a_serial_port(tmp_path):
    database = tmp_path / "rig" / "backend.sqlite"
    emulated = subprocess.Popen(
        [sys.executable, "-m", "evmeter_tools.cli", "emulate", "meter", "--load-w", "9000",
         "--register-wh", "777000", "--serial", "4711"],
        env=_ENV, stdout=subprocess.PIPE, text=True)
    port = emulated.stdout.readline().split()[4].rstrip(";")
    rig = subprocess.Popen(
        [sys.executable, "-m", "evmeter_tools.cli", "bench-rig", "--meter", port, "--pilot", "C",
         "--dir", str(tmp_path / "rig")],
        env=_ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        begun = []
        while not begun:
            assert rig.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
            if database.exists():
                begun = _stored(database, "begin")
        rig.send_signal(signal.SIGINT)
        _, errors = rig.communicate(timeout=60)
        assert rig.returncode == 0, errors
        begun = _stored(database, "begin")
    finally:
        for process in (rig, emulated):
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert len(begun) == 1
    assert '"MS":"4711"' in begun[0]["ocmf"]
    assert 777_000_000 <= begun[0]["begin_mwh"] <= 777_100_000


def test_a_pulse_meter_that_bounces_loses_nothing_over_a_watchdog_reset(tmp_path):
    with Bench(tmp_path, "demo-0001", pulses=10000, pulse_meter=True,
               rig_options=("--set", "pulse_bounces=2", "--set", "pulse_glitches=3")) as bench:
        play = _Play(bench)
        play.start(1)
        play.charge(3000, load_w=5000)
        bench.rig.tell(load_w=0)
        play.until(lambda: bench.rig.status["load_w"] == 0)
        play.until(lambda: play.watch.telemetry.get("e_mwh") == bench.register_mwh())
        bench.device.watchdog_reset()
        play.start(2)
        play.count("resume", 1)
        play.charge(2000, load_w=5000)
        bench.rig.tell(pilot="A")
        play.count("close", 1)
        report, sums = play.outcome()
    assert [session.state for session in report.sessions] == ["complete"]
    assert report.sessions[0].energy_mwh >= 4900
    assert sums.gap_mwh == 0
    assert '"MV":"S0"' in report.records[-1].text


def test_doubled_pulses_beside_the_register_are_noticed(tmp_path):
    with Bench(tmp_path, "demo-0001", pulses=10000,
               rig_options=("--set", "pulse_double_every=3")) as bench:
        play = _Play(bench)
        play.start(1)
        bench.rig.tell(pilot="C", load_w=5000)
        play.until(lambda: any("pulses are" in text for _, text in play.watch.lines))


def _run_device(folder):
    device = HostDevice(folder)
    command, env = device.command(ROOT / "firmware" / "main.py")
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120,
                          check=False)


@pytest.mark.parametrize(("change", "word"), [
    (None, "cannot be read"),
    ("{", "not valid JSON"),
    ({"meter": {"profile": "nonesuch", "p_max_w": 1000}}, "eastron_sdm120"),
    ({"meter": {"profile": "orno_we514", "p_max_w": 1000}}, "total_is_import: true"),
    ({"meter": {"profile": {"make": "Mine"}, "p_max_w": 1000}}, "is None; allowed: "),
    ({"meter": {"profile": "pulse", "p_max_w": 1000}}, "imp_per_kwh is 0; allowed: 1 to 100000"),
    ({"meter": {"profile": "eastron_sdm120", "p_max_w": 1}}, "p_max_w"),
    ({"colour": "red"}, "unknown field colour"),
    ({}, "port cannot be opened"),
])
def test_a_device_that_cannot_start_says_why_in_one_line(tmp_path, change, word):
    if isinstance(change, str):
        (tmp_path / "config.json").write_text(change)
    elif change is not None:
        (tmp_path / "config.json").write_text(json.dumps({**_CONFIG, **change}))
    if change and "meter" in change:
        master, slave = pty.openpty()
        (tmp_path / "meter.tty").symlink_to(os.ttyname(slave))
    done = _run_device(tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stdout.strip().splitlines()) == 1, done.stdout
    assert word in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_live_view_is_readable_at_80_columns():
    class Quiet:
        status = {"cp": "C", "st": "charging"}
        telemetry = {"p_mw": 7_200_000, "s_mwh": 12_345_000, "e_mwh": 1_234_567_000}
        head, confirmed, said = 5, 4, 0
        lines = [("12:00:00", "x" * 200)]

        def power_w(self):
            return 7200

        def say(self, text):
            raise AssertionError("nothing to say")

    view = View(Quiet(), "title", interactive=False)
    with view.console.capture() as capture:
        view.console.print(view._draw())
    text = capture.get()
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("C  vehicle draws current", "7200 W", "12345.000 Wh", "acknowledged"):
        assert word in text


def test_micropython_is_there():
    assert micropython(), "MicroPython is missing; run 'make setup'"
