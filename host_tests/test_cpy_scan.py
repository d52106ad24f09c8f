"""`evmeter scan` against the emulated meter behind a wire that knows its own speed."""

import asyncio
import io
import json
import re
import termios
import time

import pytest
import serial as pyserial
import typer
from rich.console import Console
from typer.testing import CliRunner

from evmeter.metering.reading import Reading
from evmeter_tools.bench.meter import EmulatedMeter
from evmeter_tools.errors import UserError
from evmeter_tools.scan import command, rules
from evmeter_tools.scan import line as scan_line
from evmeter_tools.scan.line import Master
from evmeter_tools.scan.rules import BAUDS, PARITIES, Line, Try, candidates, recognise, within

_SDM120 = {"line": "2400 8N1", "unit": 1, "function": 4, "confidence": "high", "phases": 1}
_ORNO = {"line": "9600 8E1", "unit": 1, "function": 3, "confidence": "high", "phases": 3}
_BAUER = {"line": "19200 8E1", "unit": 42, "function": 3, "confidence": "high", "phases": 3}
_SDM630 = {"line": "9600 8N1", "unit": 1, "function": 4, "confidence": "high", "phases": 3}
_ABB = {"line": "9600 check label; e", "unit": 1, "function": 3, "confidence": "high",
        "phases": 3}
_PROFILES = {"sdm120": _SDM120, "orno": _ORNO, "bauer": _BAUER, "sdm630": _SDM630, "abb": _ABB}


class _Deaf:
    """A port on which nothing that can be read comes: the wrong speed. It takes no time."""

    def __init__(self, noise=b""):
        self._noise = noise
        self.in_waiting = 0
        self.timeout = 0

    def reset_input_buffer(self):
        self._data = self._noise

    def write(self, data):
        return len(data)

    def read(self, count):
        data, self._data = self._data[:count], self._data[count:]
        return data

    def close(self):
        self._data = b""


def _wire_at(line, noise=b"", opened=None):
    """An `opened` through which only `line` gets."""
    def factory(port, asked):
        if opened is not None and asked not in opened:
            opened.append(asked)
        if asked != line:
            return _Deaf(noise)
        return pyserial.Serial(port, asked.baud, timeout=asked.wait_s(), exclusive=True)
    return factory


@pytest.fixture(autouse=True)
def _no_silence(monkeypatch):
    monkeypatch.setattr(rules, "SILENCE_MS", 0)
    monkeypatch.setattr(scan_line, "SILENCE_MS", 0)


def _scan(baud=9600, parity="N", unit=1, factory=None, ask=(None, None, None), **how):
    """Scan an emulated SDM120, for `ask` (baud, parity, unit) only; returns the error, or None."""
    async def main():
        emulated = EmulatedMeter(unit=unit, baud=baud, parity=parity, latency_ms=5)
        emulated.set_load(3680)
        await emulated.start()
        opened = factory or _wire_at(Line(baud, parity, 1))
        try:
            await asyncio.to_thread(command.run, emulated.path, *ask, opened=opened, **how)
        except UserError as error:
            return str(error)
        finally:
            await emulated.stop()
        return None

    return asyncio.run(main())


def _config(output):
    return json.loads("{" + output[output.index('"meter":'):] + "}")["meter"]


@pytest.mark.parametrize(("baud", "parity", "unit"), [
    (9600, "N", 1), (2400, "N", 1), (9600, "E", 1), (4800, "O", 1), (2400, "N", 3)])
def test_found_wherever_it_is(capsys, baud, parity, unit):
    assert _scan(baud, parity, unit) is None
    output = capsys.readouterr().out
    assert "unit %d answers at %d 8%s1" % (unit, baud, parity) in output
    assert "  voltage L1     230.000 V" in output
    assert "  power          3680.000 W" in output
    assert "  serial number  21034567" in output
    assert "  meter code     0020" in output
    assert "by meter code 0020, voltage, frequency" in output
    assert ("as delivered" in output) == ((baud, parity, unit) == (2400, "N", 1))
    assert _config(output) == {"profile": "eastron_sdm120", "unit": unit, "baud": baud,
                               "parity": parity, "stop": 1, "p_max_w": 7400}
    assert max(map(len, output.splitlines())) <= 80


def test_json_is_one_object_and_nothing_else(capsys):
    assert _scan(as_json=True) is None
    body = json.loads(capsys.readouterr().out)
    assert body["found"] is True
    assert (body["baud"], body["parity"], body["stop"], body["unit"]) == (9600, "N", 1, 1)
    assert body["fits"] == ["eastron_sdm120"]
    assert body["reading"]["voltages_mv"] == [230000]
    assert body["reading"]["import_mwh"] // 1000000 == 1234
    assert body["config"]["meter"]["profile"] == "eastron_sdm120"


def test_the_wrong_unit_is_not_there():
    error = _scan(unit=7, ask=(9600, "N", 2))
    assert re.match(r"no meter answers on /dev/pts/\d+: 2 requests in \d s; check A and B", error)


def test_options_that_name_the_meter_find_it_at_once():
    opened = []
    assert _scan(unit=7, factory=_wire_at(Line(9600, "N", 1), opened=opened),
                 ask=(9600, "N", 7)) is None
    assert opened == [Line(9600, "N", 1)]


def test_nobody_there_tries_all_and_says_so(capsys):
    opened = []
    error = _scan(factory=_wire_at(None, opened=opened), as_json=True, seconds=3600)
    assert error.startswith("no meter answers on /dev/pts/")
    body = json.loads(capsys.readouterr().out)
    assert body["found"] is False
    assert body["tried"] > 247
    assert {(line.baud, line.parity) for line in opened} == {
        (baud, parity) for baud in BAUDS for parity in PARITIES}
    assert "\n" not in error


def test_noise_is_told():
    error = _scan(factory=_wire_at(None, noise=b"\x00\xff\x7f"), seconds=5)
    assert "there was noise at 2400 8N1" in error or "there was noise at 9600 8N1" in error


def test_the_search_is_bounded(capsys):
    begun = time.monotonic()
    error = _scan(factory=_wire_at(None), seconds=1)
    assert "no meter answers" in error
    tries = candidates(command.load_profiles())
    assert ": %d of %d combinations, at most 1 s" % (
        len(within(tries, 1)), len(tries)) in capsys.readouterr().out
    assert time.monotonic() - begun < 60


def test_an_answer_that_fits_no_profile(monkeypatch):
    monkeypatch.setattr(rules, "_MHZ", (55_000, 65_000))
    error = _scan()
    assert error.startswith("unit 1 answers at 9600 8N1, but reads like none of the ")


def test_the_real_port_is_opened_as_asked(monkeypatch, capsys):
    asked = []
    true = pyserial.Serial

    def opened(port, *speed, **how):
        if not speed:  # pymodbus, at the meter's end
            return true(port, **how)
        if how["parity"] == "E":
            raise termios.error(22, "Invalid argument")
        asked.append((*speed, how["parity"], how["stopbits"], how["exclusive"]))
        return true(port, *speed, **how)

    monkeypatch.setattr(scan_line.pyserial, "Serial", opened)
    assert _scan(9600, factory=scan_line.open_port, ask=(9600, None, None)) is None
    assert _config(capsys.readouterr().out)["profile"] == "eastron_sdm120"
    assert asked == [(9600, "N", 1, True)]
    error = _scan(9600, factory=scan_line.open_port, ask=(9600, "E", None))
    assert ": 0 requests in 0 s" in error
    assert "the port cannot do 9600 8E1" in capsys.readouterr().out


def test_ports_that_cannot_be_used(tmp_path):
    missing = tmp_path / "ttyUSB7"
    with pytest.raises(UserError, match="ttyUSB7 does not exist; look with"):
        command.scan(str(missing))
    with pytest.raises(UserError, match="cannot be used: it does not exist"):
        command.run(str(missing))
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(UserError, match="plain cannot be used: it is no serial port"):
        command.run(str(plain))
    for arguments, text in ((("x", 300), "--baud 300: allowed: 1200, 2400"),
                            (("x", None, "M"), "--parity M: allowed: N, E, O")):
        with pytest.raises(UserError, match=text):
            command.scan(str(plain), *arguments[1:])


def test_a_port_in_use():
    async def main():
        emulated = EmulatedMeter(latency_ms=5)
        await emulated.start()
        held = pyserial.Serial(emulated.path, 9600, exclusive=True)
        try:
            await asyncio.to_thread(command.run, emulated.path)
        finally:
            held.close()
            await emulated.stop()

    with pytest.raises(UserError, match="cannot be used: another program uses it"):
        asyncio.run(main())


class _Says(_Deaf):
    """A port whose other end sends the same after each request."""

    def write(self, data):
        self._data = self._noise
        self.in_waiting = len(self._data)
        return len(data)


@pytest.mark.parametrize(("heard", "is_there"), [
    ("01 84 01 82 C0", True),  # exception 1
    ("01 84 02 C2 C1", True),
    ("01 84 02 C2 C0", False),
    ("02 84 01 72 C0", False),  # another unit
    ("00 01 84 01 82 C0", True),
    ("", False)])
def test_an_exception_is_an_answer(heard, is_there):
    master = Master(_Says(bytes.fromhex(heard)), Line(9600, "N", 1))
    assert master.is_there(Try(Line(9600, "N", 1), 1, 4)) is is_there
    assert master.heard == bool(heard)


def test_progress_on_a_terminal_and_elsewhere():
    tries = within(candidates(_PROFILES), 5)
    for terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, width=80, force_terminal=terminal, color_system=None)
        with command.Show(tries, console=console) as show:
            for one in tries:
                show.trying(one)
            show.comparing("Make Model")
            show.say("unit 1 answers")
        assert ("\x1b" in text.getvalue()) == terminal
        assert "unit 1 answers" in text.getvalue()
        if terminal:
            assert "Make Model" in text.getvalue()
            assert "/%d " % len(tries) in text.getvalue()
        else:
            assert str(tries[-1].line) in text.getvalue()
            lines = len({one.line for one in tries})
            assert len(text.getvalue().splitlines()) == lines + 1


def test_help_has_an_example():
    app = typer.Typer()
    app.command()(command.scan)
    done = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert "evmeter scan --port /dev/ttyUSB0" in done.output


# -- the pure part --

def test_the_order_is_that_of_likelihood():
    tries = candidates(_PROFILES)
    assert tries[0] == Try(Line(9600, "N", 1), 1, 4) or tries[0].function == 3
    firsts = list(dict.fromkeys(one.line for one in tries))
    assert firsts[0] == Line(9600, "N", 1)  # two profiles
    assert set(firsts[1:4]) == {Line(2400, "N", 1), Line(9600, "E", 1), Line(19200, "E", 1)}
    by_line = {one.line: one for one in reversed(tries)}
    assert by_line[Line(19200, "E", 1)] == Try(Line(19200, "E", 1), 42, 3)
    assert by_line[Line(9600, "E", 1)].function == 3
    assert by_line[Line(2400, "N", 1)].function == 4
    assert len(tries) == len(set(tries))
    at = {one: index for index, one in reversed(list(enumerate(tries)))}
    assert (at[Try(Line(19200, "E", 1), 42, 3)] < at[Try(Line(115200, "O", 1), 1, 4)]
            < at[Try(Line(2400, "N", 1), 2, 4)] < at[Try(Line(9600, "N", 1), 247, 4)])


def test_what_is_tried_can_be_limited():
    assert {one.line.baud for one in candidates(_PROFILES, (2400,))} == {2400}
    assert {one.line.parity for one in candidates(_PROFILES, BAUDS, ("E",))} == {"E"}
    assert {one.unit for one in candidates(_PROFILES, units=(9,))} == {9}
    tries = candidates(_PROFILES)
    kept = within(tries, 10)
    assert kept == tries[:len(kept)]
    assert sum(one.cost_s for one in kept) <= 10 < sum(
        one.cost_s for one in tries[:len(kept) + 1])
    assert within(tries, 0) == []


def _reading(mv=(230000,), ma=(16000,), mw=3680000, mhz=50000, mwh=1234000000):
    reading = Reading(len(mv))
    reading.voltages_mv = list(mv)
    reading.currents_ma = list(ma)
    reading.power_mw, reading.frequency_mhz, reading.import_mwh = mw, mhz, mwh
    return reading


def _points(reading, name="eastron_sdm120", code="0020", line=None, profile=_SDM120):
    verdict = recognise(name, profile, line or Line(9600, "N", 1), 1, reading, code)
    return verdict and verdict[0]


@pytest.mark.parametrize("wrong", [
    {"mv": (79999,)}, {"mv": (300001,)}, {"mv": (0,)}, {"mv": (-230000,)}, {"mhz": 44999},
    {"mhz": 0}, {"mhz": 65001}, {"mwh": -1}, {"mwh": None}, {"mwh": 10**13 + 1},
    {"ma": (1000001,)}, {"mw": 3680000 * 1000}, {"mw": -5000000},
    {"mv": (230000, 30000, 230000), "ma": (0, 0, 0), "mw": 0}])
def test_what_no_meter_reads_is_not_recognised(wrong):
    assert _points(_reading()) is not None
    assert _points(_reading(**wrong)) is None


def test_what_meters_do_read_is_recognised():
    for good in ({"mw": -3680000}, {"ma": (0,), "mw": 49000}, {"ma": (None,)}, {"mw": None},
                 {"mhz": None}, {"mv": (80000,), "mw": 0}, {"mwh": 0},
                 {"mv": (230000, 0, 4999), "ma": (16000, 0, 0)}):
        assert _points(_reading(**good)) is not None, good


def test_the_meter_code_decides():
    reading = _reading()
    assert _points(reading) > _points(reading, "eastron_sdm230", None) + 50
    assert _points(reading, "eastron_sdm630", "0020") is None
    assert _points(reading, "eastron_sdm630", "0070") > 100
    assert _points(reading, "eastron_sdm630", "0000") == _points(reading, "eastron_sdm630", None)
    assert _points(reading, "eastron_sdm120", "0000") is None
    assert _points(reading, "eastron_sdm120", None) == _points(reading, "eastron_sdm220", None)
    delivered = Line(2400, "N", 1)
    assert _points(reading, line=delivered) > _points(reading)
    blind = _reading((None,), (None,), 3680000, None)
    assert _points(blind, "eastron_sdm72d_v1", None) is None
    assert _points(blind, "eastron_sdm72d_v1", "0200") > 100
    reading.quality = "F"
    assert _points(reading) is None


def test_a_bad_profile_is_told(tmp_path, monkeypatch):
    folder = tmp_path / "drivers" / "meter_profiles"
    folder.mkdir(parents=True)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    for text in ("{", "[]", '{"make": 1}'):
        (folder / "own.json").write_text(text)
        with pytest.raises(UserError, match="meter profile own: "):
            command.load_profiles()


def test_every_profile_has_a_line_and_every_code_a_meter():
    profiles = command.load_profiles()
    assert "eastron_sdm120" in profiles
    for name, profile in profiles.items():
        line = rules.delivered_line(profile)
        assert line.baud in BAUDS, name
        assert line.parity in PARITIES, name
        assert name not in rules.CODES or "code" in profile["identity"], name
    assert rules.delivered_line(_ABB) == Line(9600, "N", 1)
    assert rules.delivered_line({"line": "?"}) == Line(9600, "N", 1)
    assert rules.delivered_line({"line": "9600 8N2"}) == Line(9600, "N", 2)
