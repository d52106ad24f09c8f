"""Who may log in at mosquitto and what they may say: its password and ACL files.

A device writes only its own topics and reads only what is meant for it; only the collector writes
acknowledgements and commands. `%u` is the name that a client has logged in with.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import secrets
import signal
from pathlib import Path

from evmeter_tools.backend.messages import is_device
from evmeter_tools.errors import UserError

COLLECTOR = "_collector"  # no device id begins with "_"
# many, though what is hashed is random and not chosen by people: the file may get into a backup
_ITERATIONS = 1000
_WRITES = ("avail", "info", "status", "tel", "rec", "evt", "ivl", "log", "alarm/+", "diag",
           "cmd/res", "cfg")
_READS = ("ack", "cmd", "cfg/set")
_ROOT = "evmeter/v1/"


def password_line(name, password):
    """A line of mosquitto's password file: PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return "%s:$7$%d$%s$%s" % (name, _ITERATIONS, base64.b64encode(salt).decode(),
                               base64.b64encode(digest).decode())


def acl():
    """The text of the ACL file; the same for every fleet."""
    lines = ["user " + COLLECTOR, "topic readwrite %s#" % _ROOT, ""]
    lines += ["pattern write %s%%u/%s" % (_ROOT, topic) for topic in _WRITES]
    lines += ["pattern read %s%%u/%s" % (_ROOT, topic) for topic in _READS]
    lines.append("pattern read %s_host/state" % _ROOT)
    return "\n".join(lines) + "\n"


class Credentials:
    """The files in the broker's folder, made where they are missing; only their owner can read
    them."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.passwords = self.folder / "passwords"
        self.acl = self.folder / "acl"
        self._secret = self.folder / "collector.secret"
        with self._locked():
            self._write(self.acl, acl())
            if not self._secret.exists():
                self._write(self._secret, secrets.token_urlsafe(24) + "\n")
                self._put(COLLECTOR, self.collector_password)

    @property
    def collector_password(self):
        """What the collector logs in with."""
        return self._secret.read_text().strip()

    def add(self, device, password=None):
        """A new password for a device, in place of the one that it had, `password` or a random
        one; returns it: it is not kept in the clear. Raises UserError."""
        if not is_device(device):
            raise UserError("%r is no device id: 1 to 20 of A-Z a-z 0-9 _ -, not beginning with _"
                            % device[:40])
        password = password or secrets.token_urlsafe(24)
        with self._locked():
            self._put(device, password)
        self._reload()
        return password

    def remove(self, device):
        """Take a device's password away; returns whether it had one."""
        with self._locked():
            held = self._lines()
            found = held.pop(device, None)
            self._write(self.passwords, "".join(line + "\n" for line in held.values()))
        self._reload()
        return found is not None

    def _lines(self):
        text = self.passwords.read_text() if self.passwords.exists() else ""
        return {line.partition(":")[0]: line for line in text.splitlines()}

    def _put(self, name, password):
        held = self._lines()
        held[name] = password_line(name, password)
        self._write(self.passwords, "".join(line + "\n" for line in held.values()))

    @contextlib.contextmanager
    def _locked(self):
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _write(path, text):
        """Whole or not at all, readable by its owner only."""
        new = path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(path)

    def _reload(self):
        """Have a mosquitto that runs on these files read them again."""
        path = self.folder / "mosquitto.pid"
        try:
            pid = int(path.read_text())
            if "mosquitto" in Path("/proc/%d/cmdline" % pid).read_text():
                os.kill(pid, signal.SIGHUP)
        except (OSError, ValueError):
            return  # it does not run: it reads them when it starts
