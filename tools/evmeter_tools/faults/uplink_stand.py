"""mosquitto, the collector with its SQLite database, and the device's own uplink under
MicroPython: what the campaigns `network-broker`, `network-wire` and `network-outage` play with."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from evmeter_tools.backend.broker import Broker
from evmeter_tools.backend.command import key_id
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.stand import end
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import micropython, micropython_path
from evmeter_tools.paths import BUILD, ROOT

SCRIPT = Path(__file__).resolve().parent / "scripts" / "uplink.py"
BYTES = 110  # of a frame of a series
_HEAP = "512k"
_END_S = 10
STALL_S = 120  # without a new frame in the database, on however slow a machine
_SETTLED_S = 2
_LOOK_S = 0.05
_TRACE_S = 10  # for the collector to say where it stands
# SIGUSR1: each thread tells the collector's log where it stands
_COLLECTOR = ("import faulthandler, signal; faulthandler.register(signal.SIGUSR1); "
              "from evmeter_tools.cli import main; main()")
# what has to run in the collector, and how often
_LOOPS = {"loop_forever": 2, "_work": 1, "_lead": 1, "_follow": 1, "_tell": 1}


def _spki():
    return ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo).hex()


class Stand:
    """mosquitto, the collector and its database in a folder of build/, a context manager."""

    def __init__(self, name):
        BUILD.mkdir(exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix=name + "-", dir=BUILD)
        self.folder = Path(self._folder.name)
        self.database = self.folder / "backend.sqlite"
        self.broker = Broker(self.folder / "broker", kind="mosquitto")
        self._collector = None
        self._spki = _spki()
        self.key = key_id(self._spki)

    def __enter__(self):
        self.broker.start()
        Store(self.database).close()
        self.start_collector()
        return self

    def __exit__(self, *_):
        self.stop_collector()
        self.broker.stop()
        self._folder.cleanup()

    def start_collector(self):
        """Start the collector and wait until it is on-line."""
        command = [sys.executable, "-c", _COLLECTOR, "backend", "run", "--db", str(self.database),
                   "--broker", "127.0.0.1:%d" % self.broker.port, "--web-port", "0"]
        with (self.folder / "backend.log").open("ab") as log:
            self._collector = subprocess.Popen(
                command, env=dict(os.environ, PYTHONPATH=str(ROOT / "tools"),
                                  PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        if "collecting" not in self._collector.stdout.readline():
            raise UserError("the collector did not start; see %s/backend.log" % self.folder)

    def stop_collector(self):
        """End it as an operator does."""
        if self._collector is None:
            return
        end(self._collector)
        self._collector = None

    def freeze_collector(self, frozen):
        """Stop it in mid-stride, or let it go on: it looks on-line meanwhile."""
        self._collector.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def told(self):
        """How broker and collector are, in words, for a verdict."""
        log = self.folder / "backend.log"
        ended = self.broker.ended()
        words = ["the broker runs" if ended is None else "THE BROKER ENDED (%d)" % ended]
        if self._collector is None or self._collector.poll() is not None:
            words.append("THE COLLECTOR DOES NOT RUN")
        else:
            gone = self._gone(log)
            words.append("THE COLLECTOR LACKS " + ", ".join(gone) if gone else
                         "the collector's threads run")
        errors = [line for line in log.read_text(errors="replace").splitlines()
                  if " ERROR " in line]
        if errors:
            words.append("its last error: " + errors[-1][:200])
        return "; ".join(words)

    def _gone(self, log):
        """Which of its loops the collector does not run."""
        before = log.stat().st_size
        self._collector.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + _TRACE_S
        while True:
            trace = log.read_bytes()[before:].decode(errors="replace")
            gone = [name for name, number in _LOOPS.items()
                    if len(re.findall(r"in %s\n" % name, trace)) < number]
            if not gone or time.monotonic() > deadline:
                return gone
            time.sleep(_LOOK_S)

    def enrol(self, name, spki=None):
        """Trust the stand's key for the device `name`, or the key `spki`."""
        store = Store(self.database)
        store.enrol(name, key_id(spki or self._spki), spki or self._spki)
        store.close()

    def _ask(self, query, *values):
        database = sqlite3.connect(self.database, timeout=30)
        try:
            return database.execute(query, values).fetchall()
        finally:
            database.close()

    def highest(self, name):
        """The highest number of the device that is in the database; 0 where there is none."""
        return self._ask("select max(seq) from record where device = ?", name)[0][0] or 0

    def stored(self, name):
        """How many frames of the device are in the database."""
        return self._ask("select count(*) from record where device = ?", name)[0][0]

    def contents(self, name):
        """([number, payload] of the device in order, how many are in quarantine)."""
        rows = self._ask("select seq, payload from record where device = ? order by seq", name)
        return rows, self._ask("select count(*) from quarantine")[0][0]

    def wait_until_settled(self, name):
        """Nothing new has come for a while."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < _SETTLED_S:
            now = self.stored(name)
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(0.1)


class Device:
    """scripts/uplink.py in a process, a context manager; `words` change what it is told. With
    `frames` 0 its journal is the one in the host board's `folder`; `spki` is its key then."""

    def __init__(self, stand, name, port, frames, spki=None, folder="", **words):
        stand.enrol(name, spki)
        self.name, self.frames = name, frames
        self._folder = str(folder)
        self._given = {"port": port, "key": stand.key, "name": name, "frames": frames,
                       "bytes": BYTES, "window": 4, "scale": 1, "live": True, "design": "right",
                       "away_days": 0,
                       **words}
        self._process = None
        self.stalled = ""  # what stood still, where something did

    def __enter__(self):
        program = micropython()
        if program is None:
            raise UserError("no MicroPython in build/bin; run 'make setup'")
        self._process = subprocess.Popen(
            [str(program), "-X", "heapsize=" + _HEAP, str(SCRIPT), json.dumps(self._given)],
            env=dict(os.environ, MICROPYPATH=micropython_path(), EVMETER_HOST_DIR=self._folder),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def running(self):
        return self._process.poll() is None

    def line(self):
        """Its next line of output, "" where there is none any more."""
        return self._process.stdout.readline().strip()

    def wait(self, limit_s):
        """Until it has ended. Raises UserError after `limit_s`."""
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise UserError("%s did not end within %d s" % (self.name, limit_s)) from None

    def told(self):
        """How it is, in words; it ends with that."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "THE DEVICE DOES NOT ANSWER"
        return "the device: " + (self._process.stdout.read().strip().splitlines() or [""])[-1]

    def figures(self):
        """What it said at its end, or None where it has not ended or stood still. Raises
        UserError."""
        if self.stalled or self.running():
            return None
        lines = self._process.stdout.read().strip().splitlines() or ["no output"]
        if self._process.returncode:
            raise UserError("%s: %s" % (SCRIPT.name, lines[-1]))
        return json.loads(lines[-1])


def play(stand, device, step, progress=None, stall_s=STALL_S):
    """Until the device ends, or nothing new was stored for so long: then `device.stalled` says
    what stands still. `step(highest number)` in between."""
    before, since = -1, time.monotonic()
    while device.running():
        if time.monotonic() - since >= stall_s:
            device.stalled = "%s: nothing new for %d s after frame %d: %s; %s" % (
                device.name, stall_s, before, stand.told(), device.told())
            return
        highest = stand.highest(device.name)
        if highest != before:
            before, since = highest, time.monotonic()
        step(highest)
        if progress:
            progress(highest, device.frames)
        time.sleep(_LOOK_S)


def payload(key, seq):
    """What the device makes of frame `seq` of a series."""
    head = '{"v":1,"k":"%s","seq":%d,"sid":"","pad":"' % (key, seq)
    return (head + "x" * (BYTES - 2 - len(head)) + '"}').encode()
