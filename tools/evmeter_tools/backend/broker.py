"""A broker on loopback: mosquitto as a process of our own, else amqtt from PyPI.

Nothing depends on the broker keeping a message: a device repeats what the collector has not
confirmed.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from evmeter_tools.errors import UserError
from evmeter_tools.paths import BUILD

HOST = "127.0.0.1"
_START_S = 10
_END_S = 5
_MOSQUITTO = """\
listener {inside} {home}
pid_file {folder}/mosquitto.pid
persistence true
persistence_location {folder}/
autosave_interval 30
set_tcp_nodelay true
max_packet_size 65536
max_queued_messages 100000
max_inflight_messages 500
log_dest file {folder}/mosquitto.log
"""


_OUTSIDE = """\
listener {port} {host}
set_tcp_nodelay true
"""


def find_mosquitto():
    """Path of mosquitto: the project's own, PATH's or the system's; None where there is none."""
    for found in (BUILD / "bin" / "mosquitto", shutil.which("mosquitto"),
                  "/usr/sbin/mosquitto"):
        if found and Path(found).exists():
            return str(found)
    return None


def free_port():
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _listens(port, host=HOST):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


class Broker:
    """A broker in the folder `folder`; `port` 0 takes a free one.

    `kind` is "mosquitto" or "amqtt"; `notice` is a line for the user, or "". `credentials`
    (credentials.Credentials): who may log in; without it anybody may, on loopback only. `listen`
    is the address that devices reach it at, `tls` (certificate chain, key) files for that; where
    it is not loopback, the processes of this machine have a port of their own there, `inside`, as
    the certificate is for the name by which devices know the broker.
    Raises UserError where the port is taken or the broker does not start.
    """

    def __init__(self, folder, port=0, kind=None, credentials=None, listen=HOST, tls=None):
        self.folder = Path(folder).resolve()
        self.port = port or free_port()
        self.host = HOST
        self.inside = self.port if listen == HOST else free_port()
        self.tls = tls
        self._listen = listen
        self._credentials = credentials
        program = find_mosquitto()
        self.kind = kind or ("mosquitto" if program else "amqtt")
        self.notice = ""
        self._process = None
        self._program = program

    def start(self):
        """Start and wait until it takes connections."""
        if self._listen != HOST and not (self._credentials and self.kind == "mosquitto"):
            raise UserError("beyond %s only mosquitto with credentials may listen" % HOST)
        if _listens(self.port, self._listen):
            raise UserError("port %d is in use; choose another or end what listens there"
                            % self.port)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.kind == "mosquitto":
            command = self._mosquitto()
        else:
            self.notice = ("mosquitto was not found; using amqtt: for a bench of up to about 20 "
                           "devices,\nwithout log-in, and it keeps no message for a backend "
                           "that is off-line")
            command = [sys.executable, "-m", "evmeter_tools.backend.broker", str(self.port)]
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _START_S
        while True:
            listens = _listens(self.inside)  # another process's broker may: ours has ended then
            if self.ended() is not None or time.monotonic() > deadline:
                raise UserError("the broker did not start; see %s/broker.log" % self.folder)
            if listens:
                return self
            time.sleep(0.05)

    def ended(self):
        """The exit code of a broker that does not run any more, or None."""
        return self._process.poll()

    def _mosquitto(self):
        if not self._program:
            raise UserError("mosquitto was not found; run 'make setup' or install mosquitto")
        config = _MOSQUITTO.format(inside=self.inside, home=HOST, folder=self.folder)
        if self._credentials:
            config += "password_file %s\nacl_file %s\n" % (self._credentials.passwords,
                                                           self._credentials.acl)
        else:
            config += "allow_anonymous true\n"
        if os.geteuid() == 0:
            config += "user root\n"  # it would drop to nobody, who cannot write to the folder
        if self._listen != HOST:
            config += _OUTSIDE.format(port=self.port, host=self._listen)
        if self.tls:
            config += "certfile %s\nkeyfile %s\n" % tuple(Path(name).resolve()
                                                          for name in self.tls)
        path = self.folder / "mosquitto.conf"
        path.write_text(config)
        return [self._program, "-c", str(path)]

    @property
    def pid(self):
        """Process id of the running broker."""
        return self._process.pid

    def kill(self):
        """End it without warning (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def stop(self):
        """End it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()


async def _amqtt(port):
    from amqtt.broker import Broker as Amqtt

    broker = Amqtt({
        "listeners": {"default": {"type": "tcp", "bind": "%s:%d" % (HOST, port)}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {
            "allow_anonymous": True}},
    })
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_amqtt(int(sys.argv[1])))
