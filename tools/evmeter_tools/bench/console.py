"""The host board with a console: what a chip has on UART0, on a pty.

As MicroPython on an ESP32 does it: the byte that is Ctrl-C raises KeyboardInterrupt where one is
set (here by SIGINT, which the unix port catches exactly then), any other one waits for a prompt;
and where main.py ends by anything but a restart, the prompt comes: the unix port's own.

A chip raises it at the next jump of the program. The unix port does so in its signal handler, in
the middle of whatever it is doing (MICROPY_ASYNC_KBD_INTR): asyncio may be left in pieces by it
and go on, or the process die, so that it may take a second one.
"""

import contextlib
import os
import pty
import select
import signal
import subprocess
import threading
import time
import tty
from pathlib import Path

from evmeter_tools.host_device import RESTART, HostDevice, micropython
from evmeter_tools.paths import FIRMWARE, HOST_BOARD

CTRL_C = 3
PROMPT = b">>> "
_KEPT = 65536
_STARTED = b"console: started"
_STEP_S = 0.05
_END_S = 5
_AGAIN_S = 1  # between two of them
# no signal ends a chip
_RESTARTS = (RESTART, -signal.SIGINT, -signal.SIGSEGV, -signal.SIGABRT)


def _catches_sigint(pid):
    """Whether process `pid` has a handler for SIGINT now."""
    try:
        text = Path("/proc/%d/status" % pid).read_text()
    except OSError:
        return False
    caught = int(text.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGINT - 1) & 1)


class ConsoleDevice(HostDevice):
    """A HostDevice whose console can be typed at: `type`. `said`: the newest of what it printed;
    `prompts`: how often the prompt came; `restarts`: how often main.py ended by a restart."""

    def __init__(self, folder, interpreter="micropython", **more):
        super().__init__(folder, interpreter, **more)
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.said = b""
        self.prompts = self.restarts = 0
        self._interruptible = False
        self._interrupted_s = 0
        self._ended = threading.Event()
        self._thread = None

    def start(self):
        """Switch it on; it is followed until `close`."""
        self._spawn(FIRMWARE / "main.py")
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve)
            self._thread.start()

    def _spawn(self, script):
        command, env = [str(micropython())], None
        self._interruptible = False
        self._told = b""
        self.said = b""
        if script:
            command, env = self.command(HOST_BOARD / "console_start.py")
            command.append(str(script))
        self._process = subprocess.Popen(command, env=env, stdin=self._slave, stdout=self._slave,
                                         stderr=subprocess.STDOUT)

    def follow(self):
        """The console's own thread does."""
        return False

    def close(self):
        """The power is off, and the pty away."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        self.cut_power()
        os.close(self._slave)
        os.close(self._master)

    def _serve(self):
        """Read what it prints; after main.py's end, what main.c of the ESP32's port does."""
        with (self.folder / "device.log").open("ab") as log:
            while not self._ended.is_set():
                ready, _, _ = select.select([self._master], [], [], _STEP_S)
                if ready:
                    with contextlib.suppress(OSError):
                        data = os.read(self._master, _KEPT)
                        log.write(data)
                        log.flush()
                        self.said = (self.said + data)[-_KEPT:]
                        told = self._told + data  # the word may come in two pieces
                        self._interruptible |= _STARTED in told
                        self._told = told[1 - len(_STARTED):]
                process = self._process
                if process is None or process.poll() is None:
                    continue
                if process.returncode in _RESTARTS:
                    self.restarts += 1
                    self._spawn(FIRMWARE / "main.py")
                elif process.returncode >= 0:
                    self.prompts += 1
                    self._spawn(None)

    def type(self, data):
        """Send bytes to the console, as fast as they are taken; what does not fit is lost."""
        process = self._process
        if (CTRL_C in data and self._interruptible and process and process.poll() is None
                and time.monotonic() - self._interrupted_s > _AGAIN_S
                and _catches_sigint(process.pid)):
            self._interrupted_s = time.monotonic()
            process.send_signal(signal.SIGINT)
            data = data.replace(bytes((CTRL_C,)), b"")
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)

    def answers(self, seconds=2):
        """Whether Python answers at the prompt."""
        self.said = b""
        self.type(b"\x03\r\nprint(6 * 7)\r\n")
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._ended.is_set():
            if b"\n42" in self.said:
                return True
            time.sleep(_STEP_S)
        return False
