"""`evmeter journal` on a device: mpremote on a pty, behind it a raw REPL that runs MicroPython.

The unix port has no raw REPL: the pty's other side speaks its protocol, and gives each program
that it receives to a real MicroPython, with a partition in a file in the place of the chip's.
"""

import os
import pty
import subprocess
import threading
import tty

import pytest

from evmeter_tools.errors import UserError
from evmeter_tools.host_device import micropython
from evmeter_tools.journal import device as devices
from evmeter_tools.journal.scan import scan
from test_cpy_journal_tool import _run, _sound

_ESP32 = """
import os
class Partition:
    TYPE_DATA = 1
    def __init__(self):
        self.file = open("flash.img", "rb")
    @staticmethod
    def find(kind, label):
        assert kind == 1
        return [Partition()] if label == open("label").read() else []
    def ioctl(self, operation, argument):
        return {4: os.stat("flash.img")[6] // 4096, 5: 4096}[operation]
    def readblocks(self, block, buffer, offset=0):
        self.file.seek(block * 4096 + offset)
        self.file.readinto(buffer)
"""
_MACHINE = """
class WDT:
    def __init__(self, timeout):
        assert timeout == 60000
    def feed(self):
        pass
"""


class Chip:
    """A device on a pty. `resets` counts; `garble` changes what it sends; `mute` says nothing."""

    def __init__(self, folder, image, label="journal"):
        self.folder = folder
        self.resets = 0
        self.garble = lambda out: out
        self.mute = False
        self._parts = [b""]
        for name, text in (("esp32.py", _ESP32), ("machine.py", _MACHINE), ("label", label)):
            (folder / name).write_text(text)
        (folder / "flash.img").write_bytes(image)
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        os.close(self._slave)
        self._thread.join(10)
        os.close(self._master)

    def _send(self, data):
        if not self.mute:
            while data:
                data = data[os.write(self._master, data) :]

    def _serve(self):
        held = b""
        while True:
            try:
                char = os.read(self._master, 1)
            except OSError:
                return
            held += char
            if held.endswith(b"\x05A\x01"):
                self._send(b"R\x00")  # knows of raw paste, and has none
                held = b""
            elif char == b"\x01" and not held.endswith(b"\x05A\x01"):
                self._send(b"raw REPL; CTRL-B to exit\r\n>")
                held = b""
            elif char in b"\x02\x03":
                held = b""
            elif char == b"\x04":
                self._execute(held[:-1])
                held = b""

    def _execute(self, program):
        self._send(b"OK")
        if b"machine.reset()" in program:
            self.resets += 1
            return
        done = subprocess.run([str(micropython()), "-X", "heapsize=128k", "-c", program.decode()],
                              cwd=self.folder, capture_output=True, timeout=60, check=False,
                              env=dict(os.environ, MICROPYPATH=".frozen:%s" % self.folder))
        out, error = self.garble(done.stdout), done.stderr
        self._send(out.replace(b"\n", b"\r\n") + b"\x04" + error + b"\x04>")


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
    monkeypatch.setattr(devices, "_RESET_S", 1)
    chip.mute = True
    with pytest.raises(UserError, match="does not answer"):
        devices.copy_flash(chip.port)
    assert "switch its power off and on" in capsys.readouterr().err


def test_an_image_option_with_a_port_is_bad_use(chip):
    assert _run("check", chip.port, "--offset", 4096)[0] == 2
    assert chip.resets == 0
