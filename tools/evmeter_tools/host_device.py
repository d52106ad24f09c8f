"""The firmware on the host board: provision, start, cut the power, reset."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD, FIRMWARE, HOST_BOARD, LOGGING, ROOT, UMQTT

HEAP = "512k"
_ROM_HEAP = "2m"  # the unix port has no flash to map: both images lie in the heap
_IMAGES = ("rom.img", "vfs.img")  # what the firmware can be started from, as on a chip
_CPYTHON = """\
import runpy, sys
import cpython_shim
cpython_shim.install()
runpy.run_path(sys.argv[1], run_name="__main__")
"""
_PROVISION = "from evmeter.system import provision\nprovision.main(%s)\n"
_END_S = 5
RESTART = 3  # exit code of the host board's reset


def micropython():
    """Path of MicroPython for the host, or None where there is none."""
    path = BUILD / "bin" / "micropython"
    return path if path.exists() else None


def _path(*more):
    """Where the firmware's modules are found, `more` last."""
    return [str(folder) for folder in (FIRMWARE, ROOT, HOST_BOARD, UMQTT, *more)]


def micropython_path(*more):
    """MICROPYPATH for the firmware on the host."""
    return ":".join([*_path(LOGGING, *more), ".frozen"])


class HostDevice:
    """One device in the run folder `folder`; `interpreter` is "micropython" or "cpython". `nice`:
    how far it stands back for other processes, 0 to 19."""

    def __init__(self, folder, interpreter="micropython", heap=HEAP, nice=0):
        self.folder = Path(folder).resolve()
        self.interpreter = interpreter
        self._heap = heap
        self._nice = nice
        self._process = None
        self._log = None

    def command(self, script):
        """Command and environment that run `script` on the board."""
        env = dict(os.environ, EVMETER_HOST_DIR=str(self.folder))
        if self.interpreter == "micropython":
            program = micropython()
            if program is None:
                raise UserError("no MicroPython in build/bin; run 'make setup'")
            if any((self.folder / name).exists() for name in _IMAGES):
                env["MICROPYPATH"] = ":".join(map(str, (HOST_BOARD, ROOT / "drivers", ".frozen")))
                # not where the sources are: a script's own folder is searched first
                return [str(program), "-X", "heapsize=" + _ROM_HEAP,
                        str(HOST_BOARD / "rom_start.py"), str(script)], env
            env["MICROPYPATH"] = micropython_path()
            return [str(program), "-X", "heapsize=" + self._heap, str(script)], env
        env["PYTHONPATH"] = os.pathsep.join(_path())
        return [sys.executable, "-u", "-c", _CPYTHON, str(script)], env

    def write_config(self, config):
        """Put the configuration (a dict) where the board reads it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    def provision(self, erase=False):
        """Run the commissioning on the device; returns its public facts (id, key id, SPKI).
        `erase`: what is no journal on the flash may go."""
        script = self.folder / "provision.py"
        script.write_text(_PROVISION % erase)
        command, env = self.command(script)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60,
                              check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise UserError(lines[-1].removeprefix("evmeter: "))
        return json.loads(done.stdout.strip().splitlines()[-1])

    def start(self):
        """Switch the device on. Its output goes to device.log in the run folder."""
        self._log = (self.folder / "device.log").open("ab")
        command, env = self.command(FIRMWARE / "main.py")
        if self._nice:
            command = ["nice", "-n", str(self._nice), *command]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL,
                                         stdout=self._log, stderr=subprocess.STDOUT)

    def running(self):
        """Whether the firmware's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self):
        """Process id of the firmware that was started."""
        return self._process.pid

    def follow(self):
        """Switch the device on again where it has restarted itself; returns whether it had."""
        if self._process is None or self._process.poll() != RESTART:
            return False
        self._log.close()
        self.start()
        return True

    def last_words(self):
        """The last line of the device's log, where the firmware ended by itself; else ""."""
        if self._process is None or self.running():
            return ""
        lines = (self.folder / "device.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def _end(self, how, cause):
        if self.running():
            self._process.send_signal(how)
            self._process.wait(_END_S)
        if self._log:
            self._log.close()
        (self.folder / "reset").write_text(cause)
        self._process = None

    def cut_power(self):
        """Take the power away in mid-stride: SIGKILL; at power-on RTC memory is empty."""
        self._end(signal.SIGKILL, "power-on")

    def reset(self, cause):
        """End it in mid-stride, RTC memory kept; `cause`: watchdog, software or brown-out."""
        self._end(signal.SIGKILL, cause)

    def watchdog_reset(self):
        """Reset as the watchdog does."""
        self.reset("watchdog")
