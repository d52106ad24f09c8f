"""The whole firmware with time servers: who is believed, and what a day's jump costs."""

import json
import time
from datetime import datetime

import pytest
from typer.testing import CliRunner

from evmeter_tools.backend.sessions import balance, device_report, device_times
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import Bench
from evmeter_tools.bench.time_server import TimeServer, reply
from evmeter_tools.cli import app

DAY_MS = 86400000


class _Switch:
    """Answers of a server that can be switched on."""

    def __init__(self):
        self.on = False
        self.asked = 0

    def __call__(self, question, unix_ms):
        self.asked += 1
        return [reply(question, unix_ms)] if self.on else []


@pytest.fixture
def servers():
    switch = _Switch()
    both = [TimeServer(switch), TimeServer(switch)]
    yield switch, [both[0].address, both[1].address.replace("127.0.0.1", "localhost")]
    for server in both:
        server.close()


def _until(bench, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        bench.check()
        assert time.monotonic() < deadline, bench.watch.lines[-20:]
        time.sleep(0.05)


def _charge(bench, energy_mwh):
    begun_mwh = bench.register_mwh()
    bench.rig.tell(pilot="C", load_w=10000)
    _until(bench, lambda: bench.register_mwh() - begun_mwh >= energy_mwh)


def _end(bench):
    bench.rig.tell(pilot="A")
    _until(bench, lambda: bench.watch.count("close") == 1)
    _until(bench, lambda: bench.watch.confirmed >= bench.watch.head)
    final_mwh = bench.final_register_mwh()
    store = Store(bench.database)
    messages = [json.loads(row.payload) for row in store.rows(bench.device_id)]
    report = device_report(store, bench.device_id)
    sums = balance(store, bench.device_id)
    times = device_times(store, bench.device_id)
    store.close()
    assert report.ok and sums.exact and sums.missing == ()
    assert (sums.sessions_mwh + sums.outside_mwh + final_mwh - sums.last_mwh
            == final_mwh - bench.start_mwh)
    return messages, report, times


def test_two_servers_give_s_and_date_what_came_before(tmp_path, servers):
    switch, names = servers
    bench = Bench(tmp_path, "demo-0001", battery=False)
    bench._clock.update(servers=names, time_authority=True)
    with bench:
        bench.device.start()
        _until(bench, lambda: bench.watch.count("boot") == 1)
        _charge(bench, 2000)
        _until(bench, lambda: bench.watch.count("open") == 1)
        _until(bench, lambda: switch.asked >= 2)  # both, in vain
        time.sleep(0.5)
        switch.on = True
        _until(bench, lambda: bench.watch.count("clock_bound") == 1)
        messages, report, times = _end(bench)
    begin, end = report.sessions[0].begin, report.sessions[0].end
    assert report.sessions[0].quality == "U"  # the begin was signed so, and stays so
    (bound,) = [one for one in messages if one.get("ev") == "clock_bound"]
    assert bound["q"] == "S" and bound["unc_ms"] < 500 and bound["boot"] == 1
    began = next(one for one in messages if one.get("kind") == "begin")
    told = times[began["k"], began["seq"]]
    (closed,) = [one for one in messages if one.get("ev") == "close"]
    assert closed["tq"] == "S"
    assert abs(closed["ts"] * 1000 - told.unix_ms - closed["dur_s"] * 1000) < 3000
    assert begin is not None and end.tx == "E"
    _check_both_times_are_shown(bench, told)


def _sessions(bench, *options):
    done = CliRunner().invoke(app, ["backend", "sessions", bench.device_id, "--db",
                                    str(bench.database), *options])
    assert done.exit_code == 0, done.output
    return done.output


def _check_both_times_are_shown(bench, told):
    (row,) = json.loads(_sessions(bench, "--json"))["sessions"]
    assert (row["begin"]["quality"], row["begin"]["true_quality"]) == ("U", "S")
    true = datetime.fromisoformat(row["begin"]["true"])
    assert round(true.timestamp() * 1000) == told.unix_ms
    assert abs(time.time() - true.timestamp()) < 300
    assert (row["begin"]["uncertainty_ms"], row["begin"]["told_by"]) == (
        told.uncertainty_ms, told.told_by)
    assert row["end"]["quality"] == "S" and "true" not in row["end"]
    line = next(line for line in _sessions(bench).splitlines() if "begin" in line)
    assert " U, truly %s S +-" % true.strftime("%Y-%m-%d %H:%M:%S") in line
    assert len(line) <= 80


def test_a_days_jump_in_a_session_costs_nothing_and_shows(tmp_path, servers):
    switch, names = servers
    bench = Bench(tmp_path, "demo-0001")
    bench._clock.update(servers=names, time_authority=True)
    with bench:
        (bench.folder / "battery").write_text(str(DAY_MS))
        bench.device.start()
        _until(bench, lambda: bench.watch.count("boot") == 1)
        _charge(bench, 2000)
        _until(bench, lambda: bench.watch.count("open") == 1)
        _until(bench, lambda: switch.asked >= 2)  # both, in vain
        time.sleep(0.5)
        switch.on = True
        _until(bench, lambda: bench.watch.count("clock_step") == 1)
        begun_s = time.monotonic()
        _charge(bench, 1000)
        messages, report, _ = _end(bench)
    assert time.monotonic() - begun_s < 60
    (step,) = [one for one in messages if one.get("ev") == "clock_step"]
    assert abs(step["step_ms"] + DAY_MS) < 2000 and step["sid"] and step["q"] == "I"
    (closed,) = [one for one in messages if one.get("ev") == "close"]
    assert 0 < closed["dur_s"] < 120  # by the ticks
    assert report.sessions[0].state == "complete"
    assert '"EF":"t"' in report.records[-1].text
    assert "the clock was set since the begin" in _sessions(bench)
