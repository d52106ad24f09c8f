"""`evmeter journal` on a device."""

import pytest

from evmeter_tools.device import run
from evmeter_tools.errors import UserError
from evmeter_tools.journal import device as devices
from evmeter_tools.journal.scan import scan
from repl_device import Chip
from test_cpy_journal_tool import _run, _sound


@pytest.fixture
def chip(tmp_path):
    folder = tmp_path / "chip"
    folder.mkdir()
    made = Chip(folder, _sound())
    yield made
    made.close()


def test_a_device_shows_what_its_flash_shows_and_runs_again(chip, tmp_path):
    keep = tmp_path / "copy.img"
    code, out, error = _run("check", chip.port, "--keep", keep)
    assert code == 0 and "SOUND: 60 entries" in out, (out, error)
    assert keep.read_bytes() == _sound()
    assert chip.resets == 1
    assert "the firmware stops while" in error


def test_a_damaged_journal_of_a_device_is_told(chip):
    image = bytearray(_sound())
    at = image.find(b'"seq": 21,')
    while at >= 0:
        image[at] ^= 1
        at = image.find(b'"seq": 21,', at + 1)
    (chip.folder / "flash.img").write_bytes(image)
    report = scan(devices.copy_flash(chip.port))
    assert report.name == chip.port
    assert [fault.what.split(";")[0] for fault in report.faults] == [
        "CRC wrong", "frame 21 is missing"]


@pytest.mark.parametrize(("garble", "said"), [
    (lambda out: out.replace(b"D 0 ", b"D 0 1", 1), "garbled"),
    (lambda out: out.replace(b" 4096", b" 2048", 1), "garbled"),
    (lambda out: out[:2000], "garbled"),
    (lambda out: b"", "not whole"),
    (lambda out: out.replace(b"Q\n", b"").replace(b"Q\r\n", b""), "not whole"),
])
def test_what_comes_garbled_or_broken_off_is_refused_and_the_device_runs_again(chip, garble, said):
    chip.garble = garble
    with pytest.raises(UserError, match=said):
        devices.copy_flash(chip.port)
    assert chip.resets == 1


def test_a_device_without_a_journal_and_one_that_is_silent_are_told(chip, monkeypatch, capsys):
    (chip.folder / "label").write_text("vfs")
    with pytest.raises(UserError, match="no partition named journal"):
        devices.copy_flash(chip.port)
    assert chip.resets == 1
    monkeypatch.setattr(devices, "_SILENCE_S", 1)
    monkeypatch.setattr(run, "RESET_S", 1)
    chip.mute = True
    with pytest.raises(UserError, match="does not answer"):
        devices.copy_flash(chip.port)
    error = capsys.readouterr().err
    assert "a closed prompt stops nothing), switch its power off and on" in error


def test_an_image_option_with_a_port_is_bad_use(chip):
    assert _run("check", chip.port, "--offset", 4096)[0] == 2
    assert chip.resets == 0
