"""`evmeter logs`, `shell` and `pull-journal` on a device behind a pty."""

import os
import pty
import signal
import subprocess
import sys
import time
import tty
from pathlib import Path

import pytest

from repl_device import Chip
from test_cpy_journal_tool import _sound

ROOT = Path(__file__).resolve().parents[1]
_ENV = dict(os.environ, PYTHONPATH=str(ROOT / "tools"))


def _command(*arguments):
    return [sys.executable, "-m", "evmeter_tools.cli", *map(str, arguments)]


def _run(*arguments, **more):
    done = subprocess.run(_command(*arguments), env=_ENV, capture_output=True, text=True,
                          check=False, timeout=120, **more)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def line():
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


class _Logs:
    """`evmeter logs` as it listens to a port; it has opened that once a line comes through."""

    def __init__(self, master, port):
        self._process = subprocess.Popen(
            _command("logs", "--port", port), env=_ENV, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        os.set_blocking(self._process.stdout.fileno(), False)
        self._held = b""
        while not self.lines(0.2):
            assert self._process.poll() is None, self._process.stderr.read()
            os.write(master, b"INFO up\r\n")

    def lines(self, seconds):
        """The lines of so long, without their time."""
        time.sleep(seconds)
        self._held += self._process.stdout.read() or b""
        *whole, self._held = self._held.split(b"\n")
        return [line.decode().split("  ", 1)[1] for line in whole]

    def end(self, number=signal.SIGINT):
        """(exit code, standard error); `number` 0: it ends by itself."""
        if number:
            self._process.send_signal(number)
        error = self._process.stderr.read().decode()
        return self._process.wait(60), error


def test_logs_show_whole_lines_and_send_nothing(line):
    master, port = line
    logs = _Logs(master, port)
    os.write(master, b"WARNING a \x1b[2J\r\nhalf")
    seen = []
    while "WARNING a \\x1b[2J" not in seen:
        seen += logs.lines(0.1)
    assert set(seen) <= {"INFO up", "WARNING a \\x1b[2J"}
    assert logs.end() == (0, "")
    os.set_blocking(master, False)
    with pytest.raises(BlockingIOError):  # a byte could stop the firmware
        os.read(master, 1)


def test_logs_of_a_device_that_is_unplugged():
    master, slave = pty.openpty()
    tty.setraw(slave)
    port = os.ttyname(slave)
    logs = _Logs(master, port)
    os.close(slave)
    os.close(master)
    assert logs.end(0) == (
        2, "evmeter: the port %s is gone; was the device unplugged?\n" % port)


def test_logs_end_after_so_long(line):
    code, out, error = _run("logs", "--port", line[1], "--seconds", 1)
    assert (code, out, error) == (0, "", "")


@pytest.mark.parametrize("command", [
    ("logs",), ("pull-journal", "--out", "copy.img"), ("shell",)])
def test_a_port_that_is_not_there_is_told(command, tmp_path):
    code, _, error = _run(*command, "--port", "/dev/nosuch", cwd=tmp_path, input="")
    assert code == 2
    assert "/dev/nosuch" in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("image", "code", "words"), [
    (_sound(), 0, "SOUND: 60 entries"), (b"\x00" * 4096 * 64, 1, "BROKEN: 0 entries"),
])
def test_a_journal_is_pulled_and_the_device_runs_again(tmp_path, image, code, words):
    chip = Chip(tmp_path, image)
    out = tmp_path / "copy.img"
    try:
        found, told, error = _run("pull-journal", "--port", chip.port, "--out", out)
    finally:
        chip.close()
    assert found == code and words in told, error
    assert out.read_bytes() == image
    assert chip.resets == 1


def test_a_copy_that_cannot_be_put_there_is_told_before_the_device_is_stopped(tmp_path):
    chip = Chip(tmp_path, _sound())
    try:
        code, out, error = _run("pull-journal", "--port", chip.port, "--out", "/nosuch/copy.img")
    finally:
        chip.close()
    assert (code, out, error) == (2, "", "evmeter: /nosuch/copy.img: there is no such folder\n")
    assert (chip.resets, chip.programs) == (0, [])


def test_the_prompt_is_mpremotes_and_the_device_runs_again(tmp_path):
    chip = Chip(tmp_path)
    master, slave = pty.openpty()  # mpremote wants a terminal
    process = subprocess.Popen(_command("shell", "--port", chip.port), env=_ENV, stdin=slave,
                               stdout=slave, stderr=subprocess.PIPE, text=True)
    os.close(slave)
    shown = b""
    try:
        while b"Ctrl-X" not in shown and b"Ctrl-]" not in shown:
            shown += os.read(master, 1024)
        os.write(master, b"\x18")
        assert "the firmware stops" in process.communicate(timeout=60)[1]
    finally:
        process.kill()
        os.close(master)
        chip.close()
    assert (process.returncode, chip.resets) == (0, 1)
    # the firmware was interrupted, and its watchdog, which nobody feeds now, told to wait
    assert [line for text in chip.programs for line in text.split("\n") if "WDT(" in line] == [
        "WDT(timeout=86400000)"]
