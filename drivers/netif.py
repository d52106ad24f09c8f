"""What Wi-Fi and Ethernet have in common: coming up, staying up, and saying why not.

Each `step` makes at most one call that may take long (the port's own calls take up to some tens
of ms), so that the other tasks have their turn in between.
"""

import asyncio
import os
import time

from micropython import const

_STEP_MS = const(250)
_FIRST_PAUSE_MS = const(1000)
_LONGEST_PAUSE_MS = const(60000)
_STABLE_MS = const(60000)
_RESTART_AFTER = const(4)  # failures in a row
_NOWHERE = "0.0.0.0"  # noqa: S104

_OFF = const(0)
_ON = const(1)
_JOINING = const(2)
_UP = const(3)


class Interface:
    """Keeps `nic` (network.WLAN or network.LAN) up. `address` is None for DHCP, else (address,
    mask, gateway, name server) as text; `dns` are name servers to be asked before the network's.
    `network` is the module, for its hostname, country and constants.

    `status` is one line; `drops` counts connections lost, `failures` attempts that came to
    nothing, `reason` is the newest cause.
    """

    def __init__(self, nic, network, hostname=None, address=None, dns=(), ticks=time,
                 urandom=os.urandom):
        self._nic = nic
        self._network = network
        self._hostname = hostname
        self._address = address
        self._dns = dns
        self._ticks = ticks
        self._urandom = urandom
        self._state = _OFF
        self._entered_ms = ticks.ticks_ms()
        self._wait_ms = 0
        self._pause_ms = _FIRST_PAUSE_MS
        self._in_a_row = 0
        self.drops = 0
        self.failures = 0
        self.reason = ""
        self.status = "off"

    def up(self):
        """Whether there was a connection with an address at the last step."""
        return self._state == _UP

    def dns_servers(self):
        """The name servers' addresses as text, best first."""
        servers = list(self._dns)
        if self._state == _UP:
            try:
                server = self._nic.ifconfig()[3]
            except OSError as error:
                self.reason = self._words(error)
                server = _NOWHERE
            if server != _NOWHERE and server not in servers:
                servers.append(server)
        return servers

    def diag(self):
        """For the message `diag`."""
        return {"net": self.status, "net_drops": self.drops, "net_fails": self.failures,
                "net_why": self.reason}

    async def run(self):
        """Keep the interface up for ever."""
        while True:
            self.step()
            await asyncio.sleep_ms(_STEP_MS)

    def step(self):
        """Look once, do what is due. Raises nothing that the port raises."""
        try:
            self._step()
        except (OSError, ValueError, RuntimeError) as error:
            self._fail(self._words(error))  # ValueError: a country or address that is none

    def _words(self, error):
        return str(error.args[0]) if error.args else "error"

    def _since_ms(self):
        return self._ticks.ticks_diff(self._ticks.ticks_ms(), self._entered_ms)

    def _enter(self, state, status):
        self._state = state
        self._entered_ms = self._ticks.ticks_ms()
        self.status = status

    def _step(self):
        if self._state == _UP:
            if not self._linked():
                self.drops += 1
                if self._since_ms() > _STABLE_MS:
                    self._pause_ms = _FIRST_PAUSE_MS
                    self._in_a_row = 0
                self._fail(self._cause() or "connection lost")
        elif self._since_ms() < self._wait_ms:
            return
        elif self._state == _OFF:
            self._wait_ms = 0
            if self._in_a_row >= _RESTART_AFTER and self._nic.active():
                self._in_a_row = 0
                self._nic.active(False)  # the next step switches it on again
                return
            self._switch_on()
            self._enter(_ON, "on")
        elif self._state == _ON:
            if self._address:
                self._nic.ifconfig(self._address)
            self._join()
            self._enter(_JOINING, "connecting")
        elif self._linked():
            self._enter(_UP, "up, %s" % self._nic.ifconfig()[0])
            self.reason = ""
        else:
            cause = self._given_up()
            if cause:
                self._fail(cause)

    def _switch_on(self):
        if self._hostname:
            self._network.hostname(self._hostname)
        self._nic.active(True)

    def _linked(self):
        """Whether there is a connection with an address: the port's word alone is not enough."""
        nic = self._nic
        return nic.isconnected() and nic.ifconfig()[0] != _NOWHERE

    def _fail(self, reason):
        self.failures += 1
        self._in_a_row += 1
        self.reason = reason
        # half of it by chance: a site's devices must not all come back at once
        self._wait_ms = self._pause_ms // 2 + self._pause_ms * self._urandom(1)[0] // 510
        self._pause_ms = min(2 * self._pause_ms, _LONGEST_PAUSE_MS)
        self._enter(_OFF, "down: %s" % reason)
        try:
            self._leave()
        except OSError as error:
            self.reason = "%s; %s" % (reason, self._words(error))
