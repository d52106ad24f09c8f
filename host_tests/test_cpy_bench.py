"""The bench itself: wire, emulated meter, pilot waveform, rig process; and the parts of the host
board that need a peer or a second interpreter."""

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
import tty
from fractions import Fraction
from itertools import groupby
from types import SimpleNamespace

import pytest

import host_flash
from board import Board
from drivers.control_pilot import ControlPilot
from drivers.modbus_rtu import crc16
from evmeter_tools.bench import command, waveform
from evmeter_tools.bench import meter as meter_module
from evmeter_tools.bench.meter import EmulatedMeter, float_bits, float_bits_mwh
from evmeter_tools.bench.vehicle import Vehicle
from evmeter_tools.bench.wire import Wire
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice, micropython, micropython_path
from evmeter_tools.paths import FIRMWARE, HOST_BOARD, ROOT
from host_adc import PilotAdc
from host_uart import Uart

_END_S = 120  # so slow is no machine
_CPYTHON = "import sys, cpython_shim; cpython_shim.install(); exec(open(sys.argv.pop(1)).read())"
_INTERPRETERS = ("micropython", "cpython")
_TOOLS = dict(os.environ, PYTHONPATH=str(ROOT / "tools"))


def _frame(body):
    crc = crc16(body, 0, len(body))
    return bytes(body) + bytes([crc & 255, crc >> 8])


def _request(unit, function, address, count):
    return _frame(bytes([unit, function]) + struct.pack(">HH", address, count))


class _Line:
    """The charger's end of the meter's line, with the time of each byte."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._hear)
        self._heard = asyncio.Event()
        self._expected = 0
        self.data = bytearray()
        self.times = []

    def _hear(self):
        data = os.read(self._fd, 512)
        self.data += data
        self.times += [self._loop.time()] * len(data)
        if len(self.data) >= self._expected:
            self._heard.set()

    async def ask(self, request, expected, limit_s=_END_S):
        """Send and wait until `expected` bytes are there, or the limit is up. Returns the time of
        sending."""
        self.data.clear()
        self.times.clear()
        self._heard.clear()
        self._expected = expected
        sent_s = self._loop.time()
        os.write(self._fd, request)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), limit_s)
        return sent_s

    def close(self):
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


def _with_line(scenario, **options):
    async def run():
        emulated = EmulatedMeter(**options)
        await emulated.start()
        line = _Line(emulated.path)
        try:
            await scenario(emulated, line)
        finally:
            line.close()
            await emulated.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("baud", "parity", "char_bits"),
                         [(9600, "N", 10), (2400, "E", 11), (1200, "N", 10)])
def test_no_byte_arrives_before_its_time_on_the_line(baud, parity, char_bits):
    async def scenario(emulated, line):
        sent_s = await line.ask(_request(1, 4, 0x0046, 6), 17)
        assert len(line.data) == 17
        char_s = char_bits / baud
        answered_s = sent_s + (8 + 3.5) * char_s + 0.030
        for index, at_s in enumerate(line.times):
            assert at_s >= answered_s + (index + 1) * char_s - 0.00001, index

    _with_line(scenario, baud=baud, parity=parity, latency_ms=30)


def test_registers_bit_by_bit():
    expected = {
        0x0000: 0x43660000, 0x0006: 0x41800000, 0x000C: 0x45660000, 0x0012: 0x45660000,
        0x0018: 0, 0x001E: 0x3F800000, 0x0024: 0, 0x0046: 0x42480000, 0x004A: 0}

    async def scenario(emulated, line):
        emulated.set_load(3680)  # 230 V, 16 A
        await line.ask(_request(1, 4, 0, 80), 165)
        assert crc16(line.data, 0, 163) == line.data[163] | line.data[164] << 8
        for address, bits in expected.items():
            at = 3 + 2 * address
            assert int.from_bytes(line.data[at : at + 4], "big") == bits, hex(address)
        emulated.set_load(0)
        for address in (0x0048, 0x0156):
            await line.ask(_request(1, 4, address, 2), 9)
            assert int.from_bytes(line.data[3:7], "big") == 0x48FFDF02  # 524024.0625 kWh
        await line.ask(_request(1, 3, 0xFC00, 4), 13)
        assert line.data[:11] == bytes([1, 3, 8, 0, 0, 0x12, 0x67, 0, 0x20, 2, 5])
        assert emulated.wire.requests == 4

    # float32 knows only every 31.25 Wh there
    _with_line(scenario, register_wh=524024070, serial=4711, latency_ms=0)


@pytest.mark.parametrize(("request_frame", "reply"), [
    (_request(2, 4, 0x48, 2), b""),  # another unit
    (_request(0, 4, 0x48, 2), b""),  # broadcast
    (_request(1, 4, 0x48, 2)[:-1] + b"\x00", b""),  # damaged
    (_request(1, 4, 0x48, 2)[1:], b""),
    (_request(1, 4, 0x47, 2), _frame(b"\x01\x84\x02")),  # odd address
    (_request(1, 4, 0x00, 82), _frame(b"\x01\x84\x03")),  # too many registers
    (_request(1, 4, 0x1000, 2), _frame(b"\x01\x84\x02")),
    (_request(1, 6, 0xFC00, 1), _frame(b"\x01\x86\x01")),  # nothing can be written
])
def test_what_the_meter_refuses_and_what_it_does_not_hear(request_frame, reply):
    async def scenario(emulated, line):
        await line.ask(request_frame, len(reply) or 1, _END_S if reply else 0.3)
        assert bytes(line.data) == reply
        assert emulated.wire.requests == (request_frame[0] == 1)

    _with_line(scenario, latency_ms=0)


def test_faults_on_the_way_back():
    request, reply_length = _request(1, 4, 0x0048, 2), 9

    async def scenario(emulated, line):
        wire = emulated.wire
        await line.ask(request, reply_length)
        good = bytes(line.data)
        wire.on_reply = lambda data: None
        await line.ask(request, 1, 0.3)
        assert not line.data
        wire.on_reply = lambda data: data[:3] + b"\xff" + data[4:]
        await line.ask(request, reply_length)
        assert bytes(line.data) == good[:3] + b"\xff" + good[4:]
        wire.on_reply = lambda data: [(0.1, data[:4]), (0.05, data[4:])]
        sent_s = await line.ask(request, reply_length)
        assert bytes(line.data) == good
        assert line.times[3] >= sent_s + 0.1
        assert line.times[4] >= line.times[0] + 0.05
        wire.on_reply = None
        await line.ask(request, reply_length)
        assert bytes(line.data) == good

    _with_line(scenario, latency_ms=0)


def test_a_line_that_nobody_reads_and_one_that_ends_in_mid_reply():
    complaints = []

    async def run():
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: complaints.append(context))
        wire = Wire(1_000_000_000, 10, 1)
        wire.start()
        meter = os.open(wire.meter_path, os.O_RDWR | os.O_NOCTTY)
        for _ in range(100):  # more than a pty holds
            os.write(meter, bytes(500))
            await asyncio.sleep(0.003)
        wire.stop()
        os.close(meter)
        slow = EmulatedMeter(baud=1200, latency_ms=0)
        await slow.start()
        line = _Line(slow.path)
        await line.ask(_request(1, 4, 0, 80), 5)
        line.close()
        await slow.stop()
        await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(run(), _END_S))
    assert not complaints


def test_energy_is_integrated_exactly(monkeypatch):
    now_ns = [12345]
    monkeypatch.setattr(meter_module, "time", SimpleNamespace(monotonic_ns=lambda: now_ns[0]))
    emulated = EmulatedMeter(register_wh=999, port="unused")
    rng = random.Random(5)
    expected_wh = Fraction(999)
    load_w = 0
    for _ in range(2000):
        step_ns = rng.randrange(1, 10**11)
        now_ns[0] += step_ns
        expected_wh += Fraction(load_w * step_ns, 3600 * 10**9)
        if rng.random() < 0.5:
            load_w = rng.choice((0, 1, 7, 1380, 7361, 22000))
            emulated.set_load(load_w)
        else:
            assert emulated.register_wh == expected_wh.numerator // expected_wh.denominator
    assert expected_wh > 100000
    emulated.set_load(0)
    assert Fraction(emulated._energy_mw_ns, 3600 * 1000 * 10**9) == expected_wh
    assert emulated.register_bits == float_bits(emulated.register_wh / 1000)


@pytest.mark.parametrize(("bits", "step_mwh", "mwh"), [
    (0x3F800000, 1000, 1_000_000), (0, 1000, 0), (0x449A5225, 1000, 1_234_567_000),
    (0x48FFDF02, 1000, 524_024_063_000), (0x48FFDF02, 1, 524_024_062_500),
    (0x3A83126F, 1000, 1000), (0x3A03126F, 1000, 1000), (0x3A031260, 1000, 0)])
def test_what_a_register_says(bits, step_mwh, mwh):
    assert float_bits_mwh(bits, step_mwh) == mwh


# -- the emulated vehicle --


@pytest.fixture
def emulated_vehicle(tmp_path, request):
    found = Vehicle(tmp_path / "pilot.bin", **getattr(request, "param", {}))
    found.start()
    found.folder = tmp_path
    yield found
    found.stop()


def _sample(found):
    pilot = ControlPilot(PilotAdc(str(found.folder / "pilot.bin")), "fe3")
    pilot.sample()
    return pilot


@pytest.mark.parametrize(
    "emulated_vehicle", [{}, {"noise_mv": 12}, {"noise_mv": 0}], indirect=True)
def test_every_state_can_be_read_from_the_samples(emulated_vehicle):
    levels = {"A": 12000, "B": 9000, "C": 6000, "D": 3000, "E": 0, "F": -12000}
    for offered_ma in (6000, 16000, 32000, 63000, 0):
        for state in levels:
            emulated_vehicle.set(state, offered_ma)
            pilot = _sample(emulated_vehicle)  # the change shows in the very next window
            assert abs(pilot.high_mv - levels[state]) < 300, (state, offered_ma)
            pulsed = state in "BCD" and offered_ma > 0
            assert pilot.pwm == pulsed, (state, offered_ma)
            assert abs(pilot.low_mv - (-12000 if pulsed else levels[state])) < 300
            assert emulated_vehicle.edge_unix_ms > 0


@pytest.mark.parametrize("emulated_vehicle", [{"offset_mv": 20, "gain": 0.9}], indirect=True)
def test_a_front_end_that_is_off(emulated_vehicle):
    emulated_vehicle.set("C", 16000)
    pilot = _sample(emulated_vehicle)
    assert abs(pilot.high_mv - (6000 * 0.9 + 20 / 0.0885)) < 100
    assert abs(pilot.low_mv - (-12000 * 0.9 + 20 / 0.0885)) < 100


def test_the_share_of_high_samples_is_the_duty(emulated_vehicle):
    emulated_vehicle.set("B", 24000)
    path = emulated_vehicle.folder / "pilot.bin"
    windows = []
    for _ in range(16):
        emulated_vehicle.set()
        windows.append(path.read_bytes()[8:])
    high = sum(value > 1300 for body in windows for value in struct.unpack("<250H", body))
    assert abs(high / (250 * len(windows)) - 0.4) < 0.05
    assert len(set(windows)) == len(windows)


def test_a_pilot_out_of_order_reaches_the_file(emulated_vehicle):
    emulated_vehicle.set("C", 16000, low_mv=-10700, noise_mv=0)
    assert abs(_sample(emulated_vehicle).low_mv + 10700) < 20
    emulated_vehicle.set(duty_percent=5)
    pilot = _sample(emulated_vehicle)
    assert pilot.pwm
    emulated_vehicle.set(cp="short")
    pilot = _sample(emulated_vehicle)
    assert (pilot.pwm, abs(pilot.high_mv) < 20) == (False, True)
    assert emulated_vehicle.state == "C"
    emulated_vehicle.set(offered_ma=0, cp="ok")
    assert not _sample(emulated_vehicle).pwm
    with pytest.raises(ValueError, match="cp"):
        emulated_vehicle.set("B", cp="torn")
    assert emulated_vehicle.state == "C"


def test_windows_keep_coming_whole(emulated_vehicle):
    path = emulated_vehicle.folder / "pilot.bin"
    seen = set()
    end = time.monotonic() + _END_S
    while len(seen) < 5 and time.monotonic() < end:
        data = path.read_bytes()
        assert len(data) == 8 + 2 * waveform.SAMPLES
        sequence, count = struct.unpack_from("<II", data)
        assert count == waveform.SAMPLES
        seen.add(sequence)
        time.sleep(0.005)
    assert len(seen) == 5


def test_a_wrong_pilot_changes_nothing(emulated_vehicle):
    for state, offered_ma in (("G", 6000), ("", None), (["A"], None), ("C", -1), ("C", 80001)):
        with pytest.raises(ValueError, match="not"):
            emulated_vehicle.set(state, offered_ma)
        assert (emulated_vehicle.state, emulated_vehicle.offered_ma) == ("A", 16000)


@pytest.mark.parametrize(("offered_ma", "duty"), [
    (0, 100), (6000, 10), (16000, 80 / 3), (51000, 85), (63000, 89.2), (80000, 96)])
def test_duty(offered_ma, duty):
    assert abs(waveform.duty_percent(offered_ma) - duty) < 1e-9


# -- the rig process --


class _Rig:
    def __init__(self, folder, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "evmeter_tools.bench.rig", "--dir", str(folder), *arguments],
            env=_TOOLS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)
        self.ready = self.line()

    def line(self):
        return json.loads(self.process.stdout.readline())

    def tell(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def until(self, condition):
        end = time.monotonic() + _END_S
        while time.monotonic() < end:
            line = self.line()
            if condition(line):
                return line
        raise AssertionError("never happened; last %s" % line)

    def end(self):
        out, errors = self.process.communicate(timeout=_END_S)
        assert "Traceback" not in errors
        return self.process.returncode, errors


def test_the_rig_obeys_and_says_what_it_does(tmp_path):
    rig = _Rig(tmp_path, "--register-wh", "5000", "--serial", "77", "--load-w", "1000")
    link = tmp_path / "meter.tty"
    try:
        assert rig.ready["ready"] is True
        assert rig.ready["path"] == os.readlink(link)
        assert [rig.ready[key] for key in ("pilot", "load_w", "register_wh")] == ["A", 0, 5000]
        for told, pilot, load_w in (
                ('{"pilot": "B", "load_w": 3600000}', None, None), ('{"pilot": "B"}', "B", 0),
                ('{"load_w": 2000}', "B", 0), ('{"pilot": "C"}', "C", 2000),
                ('{"offered_ma": 0}', "C", 0), ('{"offered_ma": 6000, "pilot": "D"}', "D", 2000),
                ('{"pilot": "E"}', "E", 0), ('{"load_w": 90000, "pilot": "C"}', "C", 90000)):
            rig.tell(told)
            if pilot is None:
                assert "whole number" in rig.until(lambda line: "error" in line)["error"]
                continue
            found = rig.until(lambda line, told=(pilot, load_w):
                              (line.get("pilot"), line.get("load_w")) == told)
            assert found["pilot_unix_ms"] >= rig.ready["pilot_unix_ms"]
        later = rig.until(lambda line: line["register_wh"] > 5010)
        assert later["mono_ms"] > rig.ready["mono_ms"]
        assert later["register_bits"] == float_bits(later["register_wh"] / 1000)
        for wrong in ("[1]", "nonsense", '{"bogus": 1}', '{"pilot": "Q"}', '{"load_w": true}',
                      '{"latency_ms": 1.5}', '{"pilot": "A", "load_w": -1}', ""):
            rig.tell(wrong)
            assert rig.until(lambda line: "error" in line)["error"]
        assert rig.line()["pilot"] == "C"
        port = os.open(link, os.O_RDWR | os.O_NOCTTY)
        os.write(port, _request(1, 3, 0xFC00, 2))
        assert rig.until(lambda line: line["requests"] == 1)
        os.close(port)
    finally:
        rig.process.stdin.close()
        rig.process.stdin = None
        code, errors = rig.end()
    assert (code, errors) == (0, "")
    assert not os.path.lexists(link)


@pytest.mark.parametrize("kind", ["file", "nothing", "closed"])
def test_a_rig_whose_standard_input_is_no_pipe(tmp_path, kind):
    commands = tmp_path / "commands"
    commands.write_text('[1]\n{"pilot": "B"}\n%s\n{"pilot": 1}\n' % ("[" * 100_000))
    given = os.open(commands if kind == "file" else os.devnull, os.O_RDONLY)
    done = subprocess.run(
        [sys.executable, "-m", "evmeter_tools.bench.rig", "--dir", str(tmp_path)], env=_TOOLS,
        stdin=given, capture_output=True, text=True, timeout=_END_S, check=False,
        preexec_fn=(lambda: os.close(0)) if kind == "closed" else None)
    os.close(given)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["ready"]
    if kind == "file":
        # a slow machine has lines between the commands
        assert [pilot for pilot, _ in groupby(line.get("pilot") for line in lines)] == [
            "A", None, "A", "B", None, "B", None, "B"]
        assert sum("error" in line for line in lines) == 3


def test_the_rig_sets_what_goes_wrong_with_pilot_and_pulses(tmp_path):
    rig = _Rig(tmp_path, "--pulses", "10000", "--front-end", "fe2", "--set", "noise_mv=0",
               "--set", "pilot=C")
    try:
        assert rig.ready["pilot"] == "C"
        pilot = ControlPilot(PilotAdc(str(tmp_path / "pilot.bin")), "fe2")
        for told, high_mv, low_mv, load_w in (
                ({}, 6000, -12000, 7200), ({"low_mv": -10700}, 6000, -10700, 7200),
                ({"diode": False, "level_mv": 6400}, 6400, -6400, 7200),
                ({"cp": "short"}, 0, 0, 0), ({"cp": "cut"}, 1886, 1886, 7200),
                ({"cp": "ok", "duty_percent": 5, "diode": True, "level_mv": None},
                 6000, -10700, 7200),
                ({"pilot": "F"}, -10700, -10700, 0)):
            rig.tell(json.dumps(told))

            def obeyed(line, expected=(high_mv, low_mv), load_w=load_w):
                pilot.sample()
                return (line.get("load_w") == load_w and abs(pilot.high_mv - expected[0]) < 30
                        and abs(pilot.low_mv - expected[1]) < 30)

            rig.until(obeyed)  # a line may be from before the command
        for wrong in ('{"pulse_bounces": 9}', '{"pulse_bogus": 1}', '{"cp": "torn", "pilot": "A"}',
                      '{"pilot": "A", "pulse_low_ms": "x"}', '{"noise_mv": NaN}', '{"diode": 0}'):
            rig.tell(wrong)
            assert rig.until(lambda line: "error" in line)["error"]
        rig.tell('{"pilot": "C", "offered_ma": 16000, "load_w": 22000, "pulse_double_every": 2}')
        found = rig.until(lambda line: line.get("pulses_due", 0) >= 12)
        assert found["pilot"] == "C"
        assert found["pulses_sent"] > found["pulses_due"]
    finally:
        rig.process.stdin.close()
        rig.process.stdin = None
        assert rig.end() == (0, "")


_COUNT = """\
import sys, time
from board import Board
from drivers.pulse_meter import PulseMeter
class Clock:
    def mono_ms(self):
        return time.ticks_ms()
board = Board(sys.argv[1])
meter = PulseMeter(board.pulse_input(), board.nvs, 10000, Clock(), "4711", board.rtc_pulses)
print("open")
while meter.count < int(sys.argv[2]):
    meter.step()
    time.sleep_ms(20)
print(meter.count, meter.power_mw() is not None, meter.damaged > 0)
sent = int(sys.stdin.readline())
begun = time.ticks_ms()
while meter.count < sent and time.ticks_diff(time.ticks_ms(), begun) < 60000:
    meter.step()
for _ in range(15):
    meter.step()
    time.sleep_ms(20)
print(meter.count)
"""


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_pulses_from_the_emulated_load_to_the_meter_on_the_board(tmp_path, interpreter):
    rig = _Rig(tmp_path, "--pulses", "10000", "--set", "pulse_bounces=2", "--load-w", "5000")
    process = _start(interpreter, _script(tmp_path, _COUNT), tmp_path, 20)
    try:
        assert process.stdout.readline() == "open\n"
        rig.tell('{"pilot": "C"}')
        assert process.stdout.readline().split()[1:] == ["True", "True"]
        rig.tell('{"pilot": "B"}')
        sent = rig.until(lambda line: line["pilot"] == "B")["pulses_sent"]
        process.stdin.write("%d\n" % sent)
        process.stdin.flush()
        assert process.stdout.readline() == "%d\n" % sent
    finally:
        process.communicate(timeout=_END_S)
        rig.process.stdin.close()
        rig.process.stdin = None
        rig.end()


def test_the_rig_ends_when_told_and_when_nobody_listens(tmp_path):
    rig = _Rig(tmp_path)
    rig.tell('{"quit": true}')
    assert rig.end()[0] == 0
    rig = _Rig(tmp_path)
    rig.process.stdout.close()
    rig.process.stdout = None
    assert rig.process.wait(_END_S) == 0  # its standard input is still open
    rig.end()


def test_the_load_rises_on_a_ramp_and_ends_at_once(tmp_path):
    rig = _Rig(tmp_path, "--ramp-s", "4", "--load-w", "8000")
    rig.tell('{"pilot": "C"}')
    assert 0 < rig.until(lambda line: line["load_w"])["load_w"] < 8000
    rig.until(lambda line: line["load_w"] == 8000)
    rig.tell('{"pilot": "B"}')
    assert rig.until(lambda line: line["pilot"] == "B")["load_w"] == 0
    rig.process.stdin.close()
    rig.process.stdin = None
    assert rig.end()[0] == 0


def test_with_a_real_meter_the_rig_is_the_vehicle_only(tmp_path):
    master, slave = os.openpty()
    rig = _Rig(tmp_path, "--meter", os.ttyname(slave))
    assert os.readlink(tmp_path / "meter.tty") == rig.ready["path"] == os.ttyname(slave)
    rig.tell('{"pilot": "C"}')
    assert "register_wh" not in rig.until(lambda line: line["pilot"] == "C")
    rig.process.stdin.close()
    rig.process.stdin = None
    assert rig.end()[0] == 0
    assert len((tmp_path / "pilot.bin").read_bytes()) == 508
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(("arguments", "word"), [
    (["--dir", "{}/nope"], "does not exist"),
    (["--dir", "{}", "--meter", "/dev/ttyNONE"], "/dev/ttyNONE does not exist"),
    (["--dir", "{}", "--baud", "0"], "allowed: 1200, 2400, 4800, 9600"),
    (["--dir", "{}", "--baud", "0", "--meter", "/dev/null"], "allowed: 1200, 2400, 4800, 9600"),
    (["--dir", "{}", "--unit", "0"], "allowed: 1 to 247"),
    (["--dir", "{}", "--unit", "300"], "allowed: 1 to 247"),
    (["--dir", "{}", "--latency-ms", "-5"], "allowed: 0 to 60000"),
    (["--dir", "{}", "--register-wh", "-3"], "--register-wh -3"),
    (["--dir", "{}", "--serial", "-1"], "allowed: 0 to 4294967295"),
    (["--dir", "{}", "--load-w", "-1"], "allowed: 0 to 100000"),
    (["--dir", "{}", "--ramp-s", "nan"], "--ramp-s nan"),
    (["--dir", "{}", "--noise-mv", "-3"], "noise_mv -3.0 is not in 0 to 1000"),
    (["--dir", "{}", "--front-end", "fe9"], "fe1, fe2, fe3"),
    (["--dir", "{}", "--front-end", "1300,nan"], "1300,88.5"),
    (["--dir", "{}", "--front-end", "1300,1,2"], "1300,88.5"),
    (["--dir", "{}", "--pulses", "-1"], "1 to 100000"),
    (["--dir", "{}", "--set", "cp"], "NAME=VALUE"),
    (["--dir", "{}", "--set", "cp=torn"], "ok, short, cut"),
    (["--dir", "{}", "--set", "pulse_bounces=2"], "--pulses"),
])
def test_a_rig_that_cannot_start_says_why(tmp_path, arguments, word):
    done = subprocess.run(
        [sys.executable, "-m", "evmeter_tools.bench.rig",
         *(text.format(tmp_path) for text in arguments)],
        env=_TOOLS, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_END_S,
        check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# -- evmeter emulate meter --


@pytest.mark.parametrize(("options", "word"), [
    ({"profile": "nonesuch"}, "eastron_sdm120"),
    ({"port": "/dev/ttyNONE"}, "does not exist"),
    ({"port": "/dev/null"}, "cannot be used"),
    ({"baud": 19201}, "1200, 2400, 4800, 9600"),
    ({"parity": "X"}, "N, E, O"),
])
def test_a_meter_that_cannot_be_emulated(options, word):
    given = {"profile": "eastron_sdm120", "port": None, "baud": 9600, "parity": "N", "unit": 1,
             "latency_ms": 40, "load_w": 0, "register_wh": 0, "serial": 1, **options}
    with pytest.raises(UserError) as caught:
        command.meter(**given)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def _answer(fd, request, expected=0):
    """What comes until `expected` bytes are there, and for 0.6 s after them."""
    os.write(fd, request)
    data = b""
    while select.select([fd], [], [], 0.6 if len(data) >= expected else _END_S)[0]:
        data += os.read(fd, 512)
    return data


def test_a_meter_on_a_serial_port_leaves_other_units_alone_and_notices_its_loss():
    master, slave = os.openpty()
    tty.setraw(slave)
    arguments = [sys.executable, "-m", "evmeter_tools.cli", "emulate", "meter", "--port",
                 os.ttyname(slave), "--serial", "66051", "--unit", "7", "--latency-ms", "0"]
    process = subprocess.Popen(arguments, env=_TOOLS, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        assert os.ttyname(slave) in process.stdout.readline()
        for unit, function in ((8, 3), (0, 3), (8, 0x2B), (8, 99)):
            assert _answer(master, _request(unit, function, 0xFC00, 2)) == b""
        assert _answer(master, _request(7, 3, 0xFC00, 2), 9) == _frame(
            b"\x07\x03\x04\x00\x01\x02\x03")
        second = subprocess.run(arguments, env=_TOOLS, capture_output=True, text=True,
                                timeout=_END_S, check=False)
        assert second.returncode == 2
        assert "cannot be used" in second.stderr
        assert "Traceback" not in second.stderr
        os.close(slave)
        os.close(master)
        _, errors = process.communicate(timeout=_END_S)
        assert process.returncode == 2
        assert errors.splitlines() == ["evmeter: the port %s went away" % arguments[6]]
    finally:
        process.kill()
        process.wait()


def _on_a_port(scenario, **options):
    """Run `scenario(ask, emulated)` with the meter on the slave of a pty, as on a serial port."""
    async def run():
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        emulated = EmulatedMeter(port=os.ttyname(slave), unit=7, latency_ms=0, **options)
        await emulated.start()

        async def ask(data, expected=0):
            """Send; whatever comes until `expected` bytes are there, or in 0.15 s if it is 0."""
            if data:
                os.write(master, data)
            heard = b""
            end_s = time.monotonic() + (_END_S if expected else 0.15)
            while time.monotonic() < end_s and not (expected and len(heard) >= expected):
                await asyncio.sleep(0.01)
                with contextlib.suppress(BlockingIOError):
                    heard += os.read(master, 500)
            return heard

        try:
            await scenario(ask, emulated)
        finally:
            await emulated.stop()
            os.close(master)
            os.close(slave)

    asyncio.run(run())


_GOOD = _request(7, 4, 0x48, 2)


@pytest.mark.parametrize("frame", [
    _request(8, 4, 0x48, 2), _request(0, 4, 0x48, 2), _request(0, 6, 0x48, 2),
    _frame(b"\x08\x04\x04\x01\x02\x03\x04"),  # another meter's reply
    _frame(b"\x07\x04\x04\x01\x02\x03\x04"), _frame(b"\x07\x84\x02"),  # its own, as an echo
    _GOOD[:-1] + bytes([_GOOD[-1] ^ 1]), _GOOD[:-1], _GOOD[1:], b"\x07", bytes(3000),
    random.Random(3).randbytes(3000)])
def test_a_meter_on_a_bus_keeps_silent_and_is_ready_for_the_next(frame):
    async def scenario(ask, emulated):
        assert await ask(frame) == b""
        assert emulated.wire.requests == 0
        for _ in range(2):
            assert len(await ask(_GOOD, 9)) == 9
        assert emulated.wire.requests == 2

    _on_a_port(scenario)


def test_a_meter_on_a_bus_hears_its_request_behind_anything():
    async def scenario(ask, _emulated):
        rng = random.Random(1)
        reply = await ask(_GOOD, 9)
        for length in (1, 2, 7, 8, 9, 30, 200):
            assert await ask(rng.randbytes(length) + _GOOD, 9) == reply, length
        assert await ask(_request(8, 4, 0x48, 2) + _GOOD, 9) == reply
        assert await ask(_GOOD[:5]) == b""
        assert await ask(_GOOD[5:]) == b""  # too late to belong together
        assert await ask(_GOOD, 9) == reply

    _on_a_port(scenario)


def test_the_faults_of_a_meter_on_a_bus_count_its_own_requests():
    async def scenario(ask, emulated):
        for _ in range(3):
            assert len(await ask(_GOOD, 9)) == 9
            assert await ask(_request(9, 4, 0x48, 2)) == b""
            assert await ask(_GOOD) == b""
        assert emulated.fault.spoilt == 3

    _on_a_port(scenario, fault="silent", fault_every=2)


# -- the host board on both interpreters --


def _start(interpreter, script, *arguments):
    if interpreter == "micropython":
        env = dict(os.environ, MICROPYPATH=micropython_path())
        command_line = [str(micropython()), "-X", "heapsize=128k", str(script)]
    else:
        env = dict(os.environ, PYTHONPATH="%s:%s:%s" % (HOST_BOARD, FIRMWARE, ROOT))
        command_line = [sys.executable, "-u", "-c", _CPYTHON, str(script)]
    return subprocess.Popen([*command_line, *map(str, arguments)], env=env, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _script(folder, text):
    path = folder / "script.py"
    path.write_text(text)
    return path


_UART = """\
import sys, time
from host_uart import Uart
uart = Uart(sys.argv[1], 300, timeout=int(sys.argv[2]), timeout_char=int(sys.argv[3]))
buffer = bytearray(300)
print("open", uart.any())
while True:
    words = sys.stdin.readline().split()
    if not words:
        break
    if words[0] == "any":
        print(uart.any())
    elif words[0] == "into":
        begun = time.ticks_ms()
        count = uart.readinto(buffer, int(words[1]))
        print(count, bytes(buffer[:count or 0]), time.ticks_diff(time.ticks_ms(), begun))
    elif words[0] == "read":
        print(uart.read(int(words[1])))
    elif words[0] == "write":
        begun = time.ticks_us()
        print(uart.write(b"12345678"), uart.txdone())
        uart.flush()
        print(time.ticks_diff(time.ticks_us(), begun), uart.txdone())
uart.close()
"""


class _UartPeer:
    """A UART of the host board in a process, and the other end of its pty."""

    def __init__(self, folder, interpreter, timeout=0, timeout_char=0):
        self.master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.write(self.master, b"from before")
        self._process = _start(interpreter, _script(folder, _UART), os.ttyname(self._slave),
                               timeout, timeout_char)
        assert self.line() == "open 0"  # nothing of what came before it was switched on

    def line(self):
        return self._process.stdout.readline().strip()

    def tell(self, text):
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return self.line()

    def close(self):
        self._process.stdin.close()
        self._process.wait(_END_S)
        self._process.stdout.close()
        os.close(self.master)
        os.close(self._slave)


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_the_uart(tmp_path, interpreter):
    peer = _UartPeer(tmp_path, interpreter)
    assert peer.tell("any") == "0"
    assert peer.tell("into 8").startswith("None b'' ")
    assert peer.tell("read 8") == "None"
    os.write(peer.master, b"abcdefgh")
    assert peer.tell("any") == "8"
    assert peer.tell("into 3").startswith("3 b'abc' ")
    os.write(peer.master, b"ij")
    assert peer.tell("any") == "7"
    assert peer.tell("read 100") == "b'defghij'"
    assert peer.tell("write") == "8 False"
    wire_us, done = peer.line().split()
    assert (done, int(wire_us) >= 8 * 10 * 1_000_000 // 300) == ("True", True)
    assert os.read(peer.master, 100) == b"12345678"
    os.write(peer.master, bytes(range(200)))
    assert peer.tell("any") == "200"
    os.write(peer.master, bytes(300))
    assert peer.tell("any") == "256"  # the rest is lost
    os.write(peer.master, b"x")
    assert peer.tell("into 250").startswith("250 ")
    assert peer.tell("read 100") == "b'%s'" % ("\\x00" * 6)
    peer.close()


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_timeouts_are_whole_ticks_of_10_ms(tmp_path, interpreter):
    peer = _UartPeer(tmp_path, interpreter, timeout=59, timeout_char=29)
    took_ms = int(peer.tell("into 5").split()[-1])
    assert took_ms >= 50
    os.write(peer.master, b"abc")
    answer = peer.tell("into 5").split()  # waits for the rest between characters
    assert (answer[:2], int(answer[2]) >= 20) == (["3", "b'abc'"], True)
    peer.close()


def test_a_timeout_below_a_tick_is_none():
    master, slave = os.openpty()
    for given_ms, ticks_ms in ((0, 0), (9, 0), (10, 10), (59, 50)):
        uart = Uart(os.ttyname(slave), 9600, timeout=given_ms, timeout_char=given_ms)
        assert (uart._timeout_ms, uart._timeout_char_ms) == (ticks_ms, ticks_ms)
        uart.close()
    os.close(master)
    os.close(slave)


def test_parity_is_modelled_on_a_pty_and_a_port_that_is_none_is_refused(tmp_path):
    master, slave = os.openpty()
    uart = Uart(os.ttyname(slave), 2400, parity="E")
    assert uart._char_us == 4583
    uart.close()
    os.close(master)
    os.close(slave)
    with pytest.raises(OSError, match="no serial port that does 9600 baud") as caught:
        Uart("/dev/null", 9600)
    assert caught.value.args[0] == 5
    with pytest.raises(OSError, match="there is no serial port") as caught:
        Uart(str(tmp_path / "none"), 9600)
    assert caught.value.args[0] == 2


def test_what_a_pty_cannot_do_makes_no_difference_and_on_a_port_is_an_error():
    master, slave = os.openpty()  # in cooked mode, with an echo
    for baudrate in (9601, 9600):
        uart = Uart(os.ttyname(slave), baudrate, parity="O", stop=2)
        os.write(master, b"\x03\r\n")
        assert _heard(uart, 3) == b"\x03\r\n"
        assert not select.select([master], [], [], 0.05)[0]  # no echo
        uart.close()
    os.close(master)
    os.close(slave)
    # a terminal, but none in /dev/pts
    for wrong in ({"baudrate": 9601}, {"parity": "E"}):
        with pytest.raises(OSError, match="no serial port that does") as caught:
            Uart("/dev/ptmx", **wrong)
        assert caught.value.args[0] == 5
    Uart("/dev/ptmx").close()


def _heard(uart, count):
    end_s = time.monotonic() + _END_S
    while uart.any() < count and time.monotonic() < end_s:
        time.sleep(0.005)
    return uart.read()


_POLL = """\
import gc, sys, time
from host_uart import Uart
uart = Uart(sys.argv[1], 115200)
request = b"12345678"
reply = bytearray(40)
rest = memoryview(reply)[30:]
def poll():
    uart.write(request)
    uart.flush()
    sys.stdin.readline()
    while uart.any() < 20:
        pass
    while uart.any() < 30:  # the rest, behind what waits already
        pass
    begun = gc.mem_alloc()
    uart.any(); uart.any()
    uart.readinto(reply, 7)
    uart.readinto(reply)
    uart.readinto(rest)
    uart.readinto(rest)
    uart.any()
    uart.write(request)
    uart.txdone()
    uart.flush()
    return gc.mem_alloc() - begun
def wait():
    begun = gc.mem_alloc()
    while uart.any() < 15:
        pass
    while uart.any() < 30:
        pass
    uart.readinto(reply)
    return gc.mem_alloc() - begun
for scenario in (poll, wait):
    for again in range(3):
        gc.collect()
        gc.disable()
        print("ready")
        took = scenario()
        print(took)
        gc.enable()
"""


@pytest.mark.skipif(not micropython(), reason="there is no MicroPython")
def test_a_poll_takes_no_memory(tmp_path):
    master, slave = os.openpty()
    tty.setraw(slave)
    process = _start("micropython", _script(tmp_path, _POLL), os.ttyname(slave))
    taken = []
    for _ in range(6):
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        os.write(master, bytes(20))
        time.sleep(0.05)
        os.write(master, bytes(10))
        taken.append(int(process.stdout.readline()))
    process.communicate(timeout=_END_S)
    os.close(master)
    os.close(slave)
    assert taken == [0] * 6


def test_what_the_bench_does_to_a_device_is_what_its_board_says(tmp_path):
    device = HostDevice(tmp_path)
    for end, cause, kept in (
            (lambda: device.reset("software"), "software", b""),  # nothing was there yet
            (device.cut_power, "power-on", b""),
            (device.watchdog_reset, "watchdog", b"session"),
            (lambda: device.reset("software"), "software", b"session"),
            (lambda: device.reset("brown-out"), "brown-out", b"session"),
            (device.cut_power, "power-on", b"")):
        end()
        board = Board(str(tmp_path))
        assert (board.reset_cause, board.rtc_memory()) == (cause, kept)
        board.rtc_memory(b"session")


_WRITE_FILES = """\
import os, sys

from host_flash import FlashFile, mkfs, mount
flash = FlashFile(sys.argv[1], 32)
if sys.argv[2] == "format":
    mkfs(flash)
fs = mount(flash)
if sys.argv[2] == "format":
    fs.mkdir("/s")
    for number in range(12):
        with fs.open("/s/%08d" % number, "wb") as file:
            file.write(bytes([number]) * (number * 397))
elif sys.argv[2] == "change":
    with fs.open("/s/00000003", "ab") as file:
        file.write(b"more")
    with fs.open("/s/00000004", "r+b") as file:
        file.seek(5)
        file.write(b"within")
    fs.rename("/s/00000005", "/five")
    fs.remove("/s/00000006")
for folder in ("/", "/s"):
    for entry in sorted(tuple(found) for found in fs.ilistdir(folder)):
        name, kind, size = entry[0], entry[1], entry[3]
        digest = 0
        if kind == 0x8000:
            with fs.open(folder.rstrip("/") + "/" + name, "rb") as file:
                buffer = bytearray(8192)
                count = file.readinto(buffer)
            for value in buffer[:count]:
                digest = (digest * 31 + value) % 1000003
        print(folder, name, kind, size if kind == 0x8000 else 0, digest)
print(fs.statvfs("/")[:3])
"""


@pytest.mark.parametrize(("first", "second"), [_INTERPRETERS, _INTERPRETERS[::-1]])
def test_an_image_of_one_interpreter_mounts_in_the_other(tmp_path, first, second):
    script = _script(tmp_path, _WRITE_FILES)

    def run(interpreter, what):
        process = _start(interpreter, script, tmp_path / "flash.img", what)
        out, _ = process.communicate(timeout=_END_S)
        assert process.returncode == 0, out
        return out

    made = run(first, "format")
    assert len(made.splitlines()) == 14
    assert run(second, "look") == made
    changed = run(second, "change")
    assert changed != made
    assert "/ five 32768 1985 " in changed
    assert run(first, "look") == changed


_APPEND = """\
import sys
from host_flash import FlashFile, mkfs, mount
flash = FlashFile(sys.argv[1], 32)
if sys.argv[2] == "format":
    mkfs(flash)
fs = mount(flash)
number = 0
while True:
    number += 1
    with fs.open("/log", "ab") as file:
        file.write(b"%08d" % number)
    print(number)
"""


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_sigkill_loses_nothing_that_was_written(tmp_path, interpreter):
    image = tmp_path / "flash.img"
    for round_number, enough in enumerate((5, 60, 23)):
        process = _start(interpreter, _script(tmp_path, _APPEND), image, "format")
        acknowledged = 0
        while acknowledged < enough:
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait(_END_S)
        whole = rest.rsplit("\n", 1)[0].split() if "\n" in rest else []
        acknowledged = int(whole[-1]) if whole else acknowledged
        fs = host_flash.mount(host_flash.FlashFile(str(image), 32))
        buffer = bytearray(1 << 20)
        with fs.open("/log", "rb") as file:
            found = bytes(buffer[: file.readinto(buffer)])
        assert len(found) // 8 in (acknowledged, acknowledged + 1), round_number
        for number in range(acknowledged):
            assert found[8 * number : 8 * number + 8] == b"%08d" % (number + 1)


@pytest.mark.parametrize("interpreter", _INTERPRETERS)
def test_without_a_run_folder_the_board_says_so(tmp_path, interpreter):
    script = _script(tmp_path, "import board\nboard.build()\n")
    process = _start(interpreter, script)
    out, _ = process.communicate(timeout=_END_S)
    assert process.returncode == 2
    assert "EVMETER_HOST_DIR" in out
    assert len(out.splitlines()) == 1
