"""A PostgreSQL server of its own for a test, on loopback, in a folder that goes away with it.

It refuses to run as root. As root it runs in a user namespace where it has another number, or, in
a container that allows none, under the number of nobody.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pg8000.dbapi

from evmeter_tools.backend.broker import HOST, free_port
from evmeter_tools.paths import BUILD

_NOBODY = "65534"
_START_S = 30


def _as_user(folder):
    """The words before a command that make it run as somebody who is not root."""
    if os.geteuid() != 0:
        return []
    mapped = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if subprocess.run([*mapped, "true"], capture_output=True, check=False).returncode == 0:
        return mapped
    os.chown(folder, int(_NOBODY), int(_NOBODY))
    return ["setpriv", "--reuid=" + _NOBODY, "--regid=" + _NOBODY, "--clear-groups"]


class Postgres:
    """A running server; `url` is its database. Raises RuntimeError where it does not start."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="evmeter-pg-"))
        self.folder.chmod(0o755)
        self._data = self.folder / "data"
        self._data.mkdir(mode=0o700)
        self._user = _as_user(self._data)
        self.port = free_port()
        self.url = "postgresql://evmeter@%s:%d/postgres" % (HOST, self.port)
        self._process = None
        self._count = 0
        self._run("initdb", "-D", str(self._data), "-U", "evmeter", "-A", "trust", "--no-sync",
                  "-E", "UTF8", "--locale=C")
        self._start()

    def _command(self, program, *arguments):
        return [*self._user, str(BUILD / "bin" / "postgres"), program, *arguments]

    def _run(self, *words):
        done = subprocess.run(self._command(*words), capture_output=True, text=True, check=False,
                              cwd="/")
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).strip())

    def _start(self):
        self._log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            self._command("postgres", "-D", str(self._data), "-p", str(self.port), "-c",
                          "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c",
                          "jit=off", "-c", "max_connections=60"),
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, cwd="/")
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)

    def _connect(self):
        return contextlib.closing(pg8000.dbapi.connect(
            "evmeter", HOST, port=self.port, database="postgres"))

    def _answers(self):
        try:  # it listens before it is ready
            with self._connect():
                return True
        except pg8000.dbapi.Error:
            return False

    def another(self):
        """The URL of a new, empty database."""
        self._count += 1
        name = "db%d" % self._count
        with self._connect() as connection:
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE " + name)
        return "postgresql://evmeter@%s:%d/%s" % (HOST, self.port, name)

    def stop(self):
        """End it and take its files away."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
