"""A sample of each fault campaign; the fuzzers' targets on their seeds and mutations of them."""

import json
import random
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from evmeter.ledger.journal import JournalError
from evmeter_tools.faults import (
    bus,
    clock,
    clock_world,
    command,
    commands,
    flash_errors,
    fuzz,
    in_micropython,
    meter,
    network,
    power_cut,
    rows,
    signatures,
    update,
)
from evmeter_tools.faults.life import Device, OnLittlefs, OnRing, Told
from evmeter_tools.faults.line import LineUart, Time

_MUTATIONS = 30
FUZZ = Path(__file__).resolve().parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import targets  # noqa: E402


def _all_good(result, trials, controls):
    assert result.texts == []
    assert result.trials >= trials
    assert result.controls == dict.fromkeys(result.controls, True)
    assert len(result.controls) == controls
    assert result.good


def test_bus_campaign():
    result = bus.run(3000, control_trials=800)
    _all_good(result, 3000, 10)
    for kind in meter.KINDS:
        assert result.counts["fault: " + kind] > 10, kind
    assert result.counts["believed"] > 1000 and result.counts["edge readings believed"] > 50
    assert result.counts["fault: rollover"] > 0 and result.counts["rollovers added"] > 0
    for model in (profile["model"] for profile in rows.profiles()):
        assert result.counts["believed, " + model] > 50, model


def test_bus_campaign_is_the_same_each_time():
    first, again = (bus.run(400, seed=9, control_trials=0) for _ in range(2))
    assert first.counts == again.counts


def test_power_cut_campaign():
    result = power_cut.power_cut(600, appends=24, each=13)
    _all_good(result, 600, 3)
    assert result.counts["cut points on flash"] > 500
    assert result.counts["second lives that were cut"] > 0


def test_power_cut_campaign_on_the_ring():
    result = power_cut.power_cut(500, appends=40, each=3, stores=OnRing())
    _all_good(result, 500, 6)
    assert result.counts["cut points on flash"] > 100
    assert result.counts["second lives that were cut"] > 0


@pytest.mark.parametrize("stores", [OnLittlefs(), OnRing()])
def test_bit_rot_campaign(stores):
    _all_good(power_cut.bit_rot(300, control_trials=300, appends=24, stores=stores), 300, 2)


@pytest.mark.parametrize(("stores", "trials"), [(OnLittlefs(), 40), (OnRing(), 200)])
def test_flash_error_campaign(stores, trials):
    result = flash_errors.run(trials, control_trials=40, stores=stores)
    assert bool(result.counts["faults at reads"]) == bool(stores.name)
    _all_good(result, trials, 3)
    assert result.counts["errors that were reported"] > 10


@pytest.mark.parametrize("stores", [OnLittlefs(), OnRing()])
@pytest.mark.parametrize("tear", [0, 1, 2])
def test_the_store_that_saw_the_power_go_leaves_what_the_next_boot_needs(stores, tear):
    """The cut as an exception in the block device, not as a copy of its image."""
    device = Device(stores)
    image = device.blank_image()
    cuts = 0
    for cut_at in range(tear, 1000, 3):
        life, told = device.live(image, {}), Told()
        life.flash.cut_at, life.flash.tear = cut_at, tear
        try:
            life.work(told, 24)
        except JournalError:
            cuts += 1
        if not life.flash.dead:
            break
        assert not power_cut.judge(bytes(life.flash.image), life.nvs.values, told, device), cut_at
    assert cuts > 10


def test_signatures_campaign():
    result = signatures.run(20, shared=False)
    _all_good(result, 4000, 3)
    assert result.counts["CPython"] == result.counts["MicroPython, 64 bits"] == 20
    assert result.counts["bits flipped"] > 4000


def test_clock_campaign():
    result = clock.run(3000, control_trials=1500)
    _all_good(result, 3000, 7)
    for kind in clock_world.KINDS:
        assert result.counts["server: " + kind] > 0, kind
    for quality, least in (("U", 100), ("I", 500), ("S", 300)):
        assert result.counts["quality " + quality] > least
    assert result.counts["dates corrected"] > 50 and result.counts["rounds with a liar"] > 50


def test_clock_campaign_is_the_same_each_time():
    first, again = (clock.run(600, seed=9, control_trials=0) for _ in range(2))
    assert first.counts == again.counts


@pytest.mark.parametrize(("files", "trials", "controls"), [(False, 150, 6), (True, 400, 8)])
def test_update_campaign(files, trials, controls):
    result = update.run(trials, files=files, size=1000)
    _all_good(result, trials, controls)
    assert result.counts["cuts"] > trials // 3
    assert result.counts["operations that the flash refused"] >= 3
    assert sum(number for name, number in result.counts.items() if "refused: " in name) >= 9


def test_network_campaign():
    result = network.run(400)
    _all_good(result, 400, 2)
    for kind in network.KINDS:
        assert result.counts["fault: " + kind] > 2, kind
    assert result.counts["frames stored"] == 400 * network.FRAMES
    assert result.counts["frames published"] > result.counts["frames stored"]


def test_commands_campaign():
    result = commands.run(311)
    _all_good(result, 1500, 6)
    for kind in ("bit flipped", "cut short", "repeated after a restart", "spliced", "flood"):
        assert result.counts[kind] > 20, kind


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("what", ["cut", "heap"])
def test_journal_campaigns_in_micropython(what, ring):
    result = in_micropython.run(what, ring, 8)
    _all_good(result, 30, 1)
    assert result.counts["trials that ended early"] > 5


def _mutations(seed, rng):
    yield seed
    for _ in range(_MUTATIONS):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            data[at:at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        yield bytes(data)


def _seeds(target):
    return [path.read_bytes() for path in sorted((FUZZ / "seeds" / target).iterdir())]


@pytest.mark.parametrize("target", sorted(targets.TARGETS))
def test_fuzz_targets_on_their_seeds(target):
    rng = random.Random(target)
    seeds = _seeds(target)
    assert len(seeds) > 4
    for seed in seeds:
        for data in _mutations(seed, rng):
            targets.TARGETS[target](data)


@pytest.mark.parametrize(("target", "name"), [
    (target, name) for target in sorted(targets.WRONG) for name in targets.WRONG[target]])
def test_the_targets_notice_a_wrong_parser(target, name, monkeypatch):
    monkeypatch.setattr(*targets.WRONG[target][name])
    rng = random.Random(target)
    for data in (data for seed in _seeds(target) for data in _mutations(seed, rng)):
        try:
            targets.TARGETS[target](data)
        except AssertionError:
            return
    raise AssertionError("not noticed")


@pytest.mark.skipif(not fuzz.is_there(), reason="no atheris for this machine")
@pytest.mark.parametrize("target", sorted(fuzz.TARGETS))
def test_fuzz_campaign(target):
    controls = target == "key"
    result = fuzz.fuzz(target, 1000, control_trials=1000 * controls)
    assert result.campaign == "hostile-fuzz-" + target
    _all_good(result, 1000, int(controls))


def test_fuzz_campaigns_know_their_wrong_parsers():
    assert fuzz.TARGETS == {target: tuple(wrong) for target, wrong in targets.WRONG.items()}
    assert sorted(fuzz.TARGETS) == sorted(targets.TARGETS)


def test_virtual_time_wakes_tasks_in_their_order():
    time = Time()
    seen = []

    async def task(name, ms):
        for _ in range(3):
            await time.sleep_ms(ms)
            seen.append((name, time.mono_ms()))

    time.spawn(task("a", 10))
    time.spawn(task("b", 15))
    time.run(time.now_us + 100000)
    assert seen == [("a", 10), ("b", 15), ("a", 20), ("b", 30), ("a", 30), ("b", 45)]
    assert time.mono_ms() == 100


def test_line_carries_bytes_in_time_and_loses_what_is_too_much():
    time = Time()
    uart = LineUart(time, 1000, lambda data, end_us: None)
    uart.deliver(time.now_us + 5000, b"late")
    uart.deliver(time.now_us, b"ab")
    assert uart.any() == 0
    time.run(time.now_us + 2000)
    buffer = bytearray(9)
    assert uart.any() == 2 and uart.readinto(buffer) == 2 and bytes(buffer[:2]) == b"ab"
    time.run(time.now_us + 7000)
    assert uart.readinto(memoryview(buffer)[1:], 3) == 3 and bytes(buffer[1:4]) == b"lat"
    uart.deliver(time.now_us, bytes(300))
    time.run(time.now_us + 400000)
    assert uart.any() == 256
    uart.fail = True
    with pytest.raises(OSError, match="5"):
        uart.any()


def _run(monkeypatch, tmp_path, *arguments):
    monkeypatch.setattr(command, "FILE", tmp_path / "faults.json")
    app = typer.Typer()
    app.command()(command.faults)
    return CliRunner().invoke(app, list(arguments))


def test_command_writes_what_it_found(monkeypatch, tmp_path):
    done = _run(monkeypatch, tmp_path, "--campaign", "bus", "--short", "--trials", "500")
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.output.splitlines())
    (row,) = json.loads((tmp_path / "faults.json").read_text())
    assert row.pop("trials") >= 500
    assert row == {"campaign": "bus", "violations": 0, "controls_caught": 10}


@pytest.mark.parametrize("fault", ["violation", "control"])
def test_command_fails_where_a_rule_is_broken_or_a_control_missed(fault, monkeypatch, tmp_path):
    def run(trials, short, progress):
        result = bus.Result("bus")
        result.trials = trials
        if fault == "violation":
            result.wrong("x" * 200)
        else:
            result.controls["a wrong design"] = False
        return result

    monkeypatch.setitem(command.CAMPAIGNS, "bus", command.Campaign(run, 5, 5))
    done = _run(monkeypatch, tmp_path, "--campaign", "bus")
    assert done.exit_code == 1
    assert all(len(line) <= 80 for line in done.output.splitlines())
    assert ("xxx" if fault == "violation" else "NOT CAUGHT: a wrong design") in done.output


def test_command_refuses_what_it_does_not_know(monkeypatch, tmp_path):
    done = _run(monkeypatch, tmp_path, "--campaign", "moon")
    assert "bus" in str(done.exception)
    monkeypatch.setattr(command.fuzz.importlib.util, "find_spec", lambda name: None)
    done = _run(monkeypatch, tmp_path, "--campaign", "hostile-fuzz-modbus")
    assert "atheris" in str(done.exception)
