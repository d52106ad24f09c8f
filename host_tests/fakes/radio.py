"""network.WLAN and network.LAN with the ESP32 port's manners (ports/esp32/network_wlan.c,
network_lan.c), on a virtual clock: each call takes its time."""

class Network:
    """The module `network`: keeps what it is told."""

    ETH_INITIALIZED = 0
    ETH_STARTED = 1
    ETH_STOPPED = 2
    ETH_CONNECTED = 3
    ETH_DISCONNECTED = 4
    ETH_GOT_IP = 5

    def __init__(self):
        self.told = []

    def hostname(self, name):
        self.told.append(("hostname", name))

    def country(self, code):
        if len(code) != 2:
            raise ValueError("country")
        self.told.append(("country", code))


class _Nic:
    took_ms = {"active": 80, "connect": 30, "disconnect": 20, "config": 5, "ifconfig": 1}

    def __init__(self, clock):
        self._clock = clock
        self._active = False
        self._static = None
        self.calls = []
        self.address = "0.0.0.0"

    def _call(self, name, *args):
        self.calls.append((name,) + args)
        self._clock.pass_ms(self.took_ms.get(name, 0))

    def ifconfig(self, new=None):
        if new is None:
            return (self._static[0] if self._static else self.address, "255.255.255.0",
                    "192.168.1.1", self._static[3] if self._static else
                    "192.168.1.1" if self.address != "0.0.0.0" else "0.0.0.0")
        self._call("ifconfig", new)
        self._static = new
        return None


class Wlan(_Nic):
    """A station. `reach(ssid, password)` gives 0 where the network is there and the password
    right, else the reason; it is asked `join_ms` after `connect`."""

    join_ms = 3000

    def __init__(self, clock, reach):
        super().__init__(clock)
        self._reach = reach
        self._wanted = None
        self._due_ms = None
        self._reason = 0
        self._reconnects = -1
        self._got_ip = False
        self.associated = False
        self.no_address = False
        self.attempts = 0

    def _events(self):
        """What the event task has done since."""
        if self._due_ms is None or self._clock.mono_ms() < self._due_ms:
            return
        self._due_ms = None
        self._reason = self._reach(*self._wanted)
        if not self._reason:
            self.associated = True
            self._got_ip = True
            self.address = "0.0.0.0" if self.no_address else "192.168.1.50"
        else:
            self._lost(self._reason)

    def _lost(self, reason):
        self._reason = reason
        self.associated = self._got_ip = False
        self.address = "0.0.0.0"
        if self._wanted and self._reconnects == -1:  # the port tries again at once
            self._due_ms = self._clock.mono_ms() + self.join_ms
            self.attempts += 1

    def drop(self, reason=200):
        """The access point goes away."""
        self._lost(reason)

    def active(self, on=None):
        if on is not None:
            self._call("active", on)
            self._active = on
            if not on:
                self._wanted = self._due_ms = None
                self._lost(8)
        return self._active

    def config(self, reconnects):
        self._call("config", reconnects)
        self._reconnects = reconnects

    def connect(self, ssid, password):
        self._events()
        self._call("connect", ssid)
        if not self._active:
            raise OSError("Wifi Not Started")
        if self._due_ms is not None:
            raise OSError("Wifi Internal State Error")
        if self.associated:
            raise OSError("Wifi Internal Error")
        self._wanted = ssid, password
        self._reason = 0
        self._due_ms = self._clock.mono_ms() + self.join_ms
        self.attempts += 1

    def disconnect(self):
        self._call("disconnect")
        if not self._active:
            raise OSError("Wifi Not Started")
        self._wanted = self._due_ms = None
        self._lost(8)

    def isconnected(self):
        self._events()
        return self._got_ip or bool(self._static)  # a static address counts, network or not

    def status(self, what=None):
        self._events()
        if what == "rssi":
            if not self.associated:
                raise OSError("Wifi Not Connected")
            return -61
        if self._got_ip:
            return 1010
        if self._due_ms is not None:
            return 1001
        return self._reason or 1000


class Lan(_Nic):
    """A LAN port: `cable` is what the PHY sees, `lease_ms` the time until DHCP answers (None:
    never)."""

    def __init__(self, clock):
        super().__init__(clock)
        self.cable = True
        self.lease_ms = 2000
        self.broken = 0
        self._since_ms = None

    def active(self, on=None):
        if on is not None:
            self._call("active", on)
            if on and self.broken:
                self.broken -= 1
                raise OSError("ethernet enable failed")
            if on and not self._active:
                self._since_ms = self._clock.mono_ms()
            self._active = on
        return self._active

    def plug(self, cable):
        self.cable = cable
        self.address = "0.0.0.0"
        self._since_ms = self._clock.mono_ms()

    def status(self):
        if not self._active:
            return Network.ETH_STOPPED
        if not self.cable:
            return Network.ETH_DISCONNECTED
        if self._static or (self.lease_ms is not None
                            and self._clock.mono_ms() - self._since_ms >= self.lease_ms):
            self.address = self._static[0] if self._static else "192.168.1.60"
            return Network.ETH_GOT_IP
        return Network.ETH_CONNECTED

    def isconnected(self):
        return self.status() == Network.ETH_GOT_IP
