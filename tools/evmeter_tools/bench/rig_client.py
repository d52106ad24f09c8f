"""Drives the emulated meter and vehicle (bench/rig.py), a process of its own."""

import json
import subprocess
import sys
import threading
import time

from evmeter_tools.errors import UserError
from evmeter_tools.paths import ROOT

_READY_S = 15
_END_S = 5


def setting(text):
    """NAME=VALUE as a command's name and value; the value is JSON or else a word. Raises
    UserError."""
    name, equals, value = text.strip().partition("=")
    if not (name and equals):
        raise UserError("%r is no NAME=VALUE, as cp=short or low_mv=-10700" % text)
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


class Rig:
    """The rig in the run folder; `status` is its newest status line, `refused` holds why commands
    were refused, oldest first."""

    def __init__(self, folder, arguments=()):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evmeter_tools.bench.rig", "--dir", str(folder), *arguments],
            cwd=ROOT / "tools", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=(folder / "rig.log").open("ab"), text=True)
        self.status = {}
        self.refused = []
        self.lines = 0
        self.ready = None
        self._log = folder / "rig.log"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        deadline = time.monotonic() + _READY_S
        while self.ready is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UserError("the bench rig did not start: %s" % self._last_words())
            time.sleep(0.02)

    def _last_words(self):
        lines = self._log.read_text().strip().splitlines()
        return lines[-1] if lines else "see %s" % self._log

    def _read(self):
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if "error" in message:
                self.refused.append(message["error"])
                continue
            self.status.update(message)
            self.lines += 1
            if "ready" in message:
                self.ready = message

    def running(self):
        """Whether the rig's process lives."""
        return self._process.poll() is None

    def tell(self, **command):
        """Send one command, e.g. tell(pilot="C", load_w=7200)."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def close(self):
        """End the rig."""
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
