"""A device on a serial port: behind a pty a raw REPL that runs MicroPython.

The unix port has no raw REPL: the pty's other side speaks its protocol, and gives each program
that it receives to a real MicroPython, with a partition in a file in the place of the chip's.
"""

import os
import pty
import subprocess
import threading
import tty

from evmeter_tools.host_device import micropython

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
        assert timeout >= 60000
    def feed(self):
        pass
"""


class Chip:
    """A device on a pty. `resets` counts; `garble` changes what it sends; `mute` says nothing;
    `programs` are those that it was given.

    `path`: where modules are found beside `folder`; `env`: more of the environment.
    """

    def __init__(self, folder, image=b"", label="journal", path="", heap="128k", **env):
        self.folder = folder
        self._heap = heap
        self._env = dict(os.environ, MICROPYPATH=".frozen:%s:%s" % (folder, path), **env)
        self.resets = 0
        self.garble = lambda out: out
        self.mute = False
        self.programs = []
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
        self.programs.append(program.decode())
        done = subprocess.run([str(micropython()), "-X", "heapsize=" + self._heap, "-c",
                               program.decode()], cwd=self.folder, capture_output=True,
                              timeout=120, check=False, env=self._env)
        out, error = self.garble(done.stdout), done.stderr
        self._send(out.replace(b"\n", b"\r\n") + b"\x04" + error + b"\x04>")
