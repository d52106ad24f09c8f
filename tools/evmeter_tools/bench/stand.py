"""Everything around one device on this machine: meter, vehicle, broker, collector, device."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from evmeter_tools.backend.broker import Broker
from evmeter_tools.backend.store import Store
from evmeter_tools.bench.rig_client import Rig
from evmeter_tools.bench.watch import Watch
from evmeter_tools.errors import UserError
from evmeter_tools.host_device import HostDevice, micropython
from evmeter_tools.paths import ROOT

_END_S = 15


def end(process):
    """End a program as Ctrl-C does; by force where it takes longer than 15 s."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Bench:
    """One device with its bench in `folder`, a context manager; nothing is started before `with`.

    `meter` is a real serial port in place of the emulated meter. `front_end` (fe1, fe2, fe3) is
    the pilot's, on both sides. `pulses`: imp/kWh of an S0 output (0: none), which the firmware
    checks against the register, or with `pulse_meter` reads in its place. `meter_settings`: of the
    configuration's `meter`, a dict; its profile is the one that is emulated. `rig_options`: more
    options of bench/rig.py, as ("--set", "low_mv=-10700"). `config`: more of the device's
    configuration, by section. `web_port`: of the backend's pages, 0 for none; `backend_options`:
    more of `evmeter backend run`. `gives_time`: without a battery-backed clock, the backend tells
    the time.
    """

    def __init__(self, folder, device_id, *, meter=None, baud=9600, finished_after_s=120,
                 checkpoint_s=60, battery=True, broker_kind=None, interpreter=None,
                 front_end="fe3", pulses=0, pulse_meter=False, meter_settings=(), rig_options=(),
                 config=None, web_port=0, backend_options=(), gives_time=False):
        self.folder = Path(folder).resolve()
        self.device_id = device_id
        self.notices = []
        self.database = self.folder / "backend.sqlite"
        self._meter = meter
        self._baud = baud
        self._session = {"finished_after_s": finished_after_s, "checkpoint_s": checkpoint_s}
        self._clock = {"battery": battery}
        self._front_end = front_end
        self._config = config or {}
        self._rig_options = ["--front-end", front_end, "--pulses", str(pulses), *rig_options]
        self._imp = pulses
        self._pulse_meter = pulse_meter
        self._reading = {"profile": "eastron_sdm120", "baud": baud, **dict(meter_settings)}
        if not (battery or gives_time):
            backend_options = ("--no-time", *backend_options)
        self._backend_options = ["--web-port", str(web_port), *backend_options]
        self._collector = None
        self._parts = []
        self._broker = Broker(self.folder / "broker", kind=broker_kind)
        if interpreter is None:
            interpreter = "micropython" if micropython() else "cpython"
            if interpreter == "cpython":
                self.notices.append("no MicroPython was found; the same firmware runs on CPython")
        self.device = HostDevice(self.folder, interpreter)
        self.rig = None
        self.watch = None
        self.spki = ""
        self.start_mwh = None

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.device.running():
            self.device.cut_power()
        if self.watch:
            self.watch.close()
        if self.rig:
            self.rig.close()
        if self._collector:
            self.end_collector()
        self._broker.stop()

    def _start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._broker.start()
        if self._broker.notice:
            self.notices.append(self._broker.notice)
        options = ["--baud", str(self._baud), *self._rig_options]
        if not self._pulse_meter:
            options += ["--profile", self._reading["profile"]]
        if self._meter:
            options += ["--meter", self._meter]
        self.rig = Rig(self.folder, options)
        self.start_mwh = None if self._meter and not self._pulse_meter else self.register_mwh()
        reading = self._reading
        if self._pulse_meter:
            reading = {"profile": "pulse", "serial": "S0-4711"}
        config = {
            "id": self.device_id,
            "meter": {**reading, "imp_per_kwh": self._imp, "p_max_w": 11000},
            "mqtt": {"host": self._broker.host, "port": self._broker.port, "telemetry_s": 1,
                     "tls": "off"},
            "session": self._session,
            "clock": self._clock,
            "pilot": {"front_end": self._front_end},
        }
        for section, fields in self._config.items():
            config[section] = {**config.get(section, {}), **fields}
        self.device.write_config(config)
        known = self.device.provision()
        self.spki = known["spki"]
        store = Store(self.database)
        store.enrol(known["id"], known["k"], known["spki"])
        store.close()
        self.watch = Watch(self._broker.host, self._broker.port, self.device_id)
        self.start_collector()

    def start_collector(self):
        """The backend is there."""
        command = [sys.executable, "-m", "evmeter_tools.cli", "backend", "run",
                   "--db", str(self.database), "--broker",
                   "%s:%d" % (self._broker.host, self._broker.port), *self._backend_options]
        env = dict(os.environ, PYTHONPATH=str(ROOT / "tools"))
        with (self.folder / "backend.log").open("ab") as log:
            self._collector = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL,
                                               stdout=log, stderr=subprocess.STDOUT)

    def end_collector(self):
        """The backend is away."""
        end(self._collector)

    @property
    def broker(self):
        """The broker's address as host:port."""
        return "%s:%d" % (self._broker.host, self._broker.port)

    def check(self):
        """Raise UserError where a part of the bench has died."""
        if self._collector.poll() is not None:
            raise UserError("the collector ended; see %s" % (self.folder / "backend.log"))
        if not self.rig.running():
            raise UserError("the rig ended; see %s" % (self.folder / "rig.log"))
        self.device.follow()
        words = self.device.last_words()
        if words:
            raise UserError("the firmware ended: %s" % words.removeprefix("evmeter: "))

    def register_mwh(self):
        """The emulated meter's own energy register, from the bits that it shows; or what the
        pulses are worth."""
        if self._pulse_meter:
            return self.rig.status["pulses_sent"] * 1_000_000 // self._imp
        return self.rig.status["register_mwh"]

    def final_register_mwh(self):
        """The register once a status line younger than this call is there."""
        seen = self.rig.lines
        deadline = time.monotonic() + 2
        while self.rig.lines <= seen and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.register_mwh()
