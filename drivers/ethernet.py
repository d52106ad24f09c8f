"""Ethernet of the ESP32 port: the MAC with a PHY, or a W5500 on SPI."""

from micropython import const

from drivers.netif import Interface

_ADDRESS_MS = const(60000)


class Ethernet(Interface):
    """Up while the cable is in and there is an address."""

    def _join(self):
        """The port connects by itself once it is active."""

    def _leave(self):
        """Stays active: it comes back by itself when the cable does."""

    def _cause(self):
        code = self._nic.status()
        if code is not None and code == getattr(self._network, "ETH_DISCONNECTED", -1):
            return "no cable"
        return ""

    def _given_up(self):
        cause = self._cause()
        if cause:  # nothing to be done but to wait
            self.reason = cause
            self._enter(self._state, "down: " + cause)
            return ""
        if self._since_ms() > _ADDRESS_MS:
            return "no address within %d s" % (_ADDRESS_MS // 1000)
        return ""
