"""Wi-Fi as a station of the ESP32 port.

The port's own reconnection is switched off: it tries again at once and for ever, and a `connect`
that comes in between raises OSError "Wifi Internal State Error" or "Wifi Internal Error".
"""

from micropython import const

from drivers.netif import Interface

_JOIN_MS = const(20000)
_IDLE = const(1000)  # network.STAT_IDLE; below it are wifi_err_reason_t's numbers
_LEFT = const(8)  # WIFI_REASON_ASSOC_LEAVE: by ourselves
_REASONS = {
    2: "authentication expired",
    4: "left idle by the access point",
    5: "the access point is full",
    15: "wrong password?",
    200: "the access point is gone",
    201: "no such network in reach",
    202: "wrong password?",
    203: "refused by the access point",
    204: "wrong password?",
    205: "connection failed",
    210: "no such network with this security",
    211: "the network's security is too weak",
    212: "the network is too faint",
}


class Wifi(Interface):
    """Joins the network `ssid`; `country` is two letters (its channels). `rssi_dbm` is None while
    there is no connection."""

    def __init__(self, nic, network, ssid, password, country=None, **common):
        super().__init__(nic, network, **common)
        self._ssid = ssid
        self._password = password
        self._country = country
        self.rssi_dbm = None

    def diag(self):
        fields = super().diag()
        fields["rssi_dbm"] = self.rssi_dbm
        return fields

    def _switch_on(self):
        if self._country:
            self._network.country(self._country)
        super()._switch_on()

    def _join(self):
        self._nic.config(reconnects=0)
        self._nic.connect(self._ssid, self._password)

    def _leave(self):
        self.rssi_dbm = None
        self._nic.disconnect()

    def _linked(self):
        if not super()._linked():
            return False
        try:  # a static address counts as connected before there is an access point
            self.rssi_dbm = self._nic.status("rssi")
        except OSError as error:
            self.reason = self._words(error)
            return False
        return True

    def _cause(self):
        code = self._nic.status()
        if code is None or not 0 < code < _IDLE or code == _LEFT:
            return ""
        return _REASONS.get(code) or "reason %d" % code

    def _given_up(self):
        cause = self._cause()
        if not cause and self._since_ms() > _JOIN_MS:
            cause = "no connection within %d s" % (_JOIN_MS // 1000)
        return cause
