"""What all boards with an ESP32 have in common; a board's own module gives its pins.

The chip's modules are MicroPython's ESP32 port's: ports/esp32/ of its sources.
"""

import time

import machine
from esp32 import NVS, Partition
from machine import ADC, RTC, UART, Pin
from micropython import const

from drivers.permit import Permit
from drivers.rtc_memory import RtcMemory

_WATCHDOG_MS = const(30000)  # the supervisor gives a task 20 s to check in
_RX_BYTES = const(512)  # longer than any reply: nothing is lost while the loop is held up
_LITTLEFS_PAGE = const(32)
_LOOKAHEAD = const(32)
_FILTER_NS = const(12000)  # the longest the pulse counter can do
_TO_2000 = const(946684800)  # s: this port counts from 2000
_CONFIG = "/config.json"
_HELD_MS = const(3000)
_LOOK_MS = const(50)
# machine.reset_cause: the port tells a brown-out as power-on, a panic as machine.reset
_RESETS = {machine.PWRON_RESET: "power-on", machine.WDT_RESET: "watchdog",
           machine.HARD_RESET: "software", machine.SOFT_RESET: "software"}
_PARITY = {"N": None, "E": 0, "O": 1}


class Watchdog:
    """Starts with the first feed: one that has started cannot be stopped, and a device that is
    waiting to be configured must not be reset."""

    def __init__(self):
        self._timer = None

    def feed(self):
        if self._timer is None:
            self._timer = machine.WDT(timeout=_WATCHDOG_MS)
        self._timer.feed()


class Chip:
    """The hardware as the firmware sees it. A board's class gives the numbers of its pins:

    name              of the board
    TX, RX            UART1 to the RS-485 transceiver
    DE                its direction, 1 is sending; None: it finds out by itself
    PILOT             behind the pilot's front end; of ADC1, as ADC2 does not read beside Wi-Fi
    PERMIT            to the charge controller, 1 permits; a resistor holds it at 0 in a reset
    PULSES            S0 contact to ground, with 10 kohm to 3.3 V and 100 nF
    SDA, SCL          I2C of a DS3231
    BUTTON            to ground; opens a closed prompt where it is held at a start. Most are the
                      boot loader's too: pressed after the reset, not in it. None: there is none
    """

    DE = BUTTON = None
    pilot_edges = pilot_pwm = network = None

    def __init__(self):
        self.permit = Permit(Pin(self.PERMIT, Pin.OUT, value=0), 1)
        self.rs485_de = None if self.DE is None else Pin(self.DE, Pin.OUT, value=0)
        self.pilot_adc = ADC(Pin(self.PILOT), atten=ADC.ATTN_11DB)
        self.pace_us = time.sleep_us
        self.nvs = NVS("evmeter")
        self.watchdog = Watchdog()
        self.unique_id = machine.unique_id()
        self.reset_cause = _RESETS.get(machine.reset_cause(), "unknown")
        rtc = RtcMemory(RTC().memory)
        self.rtc_memory = rtc.session
        self.rtc_pulses = rtc.pulses

    @property
    def battery_clock(self):
        """A DS3231; asked for only where the configuration says that there is one."""
        from drivers.ds3231 import Ds3231

        return Ds3231(machine.I2C(0, sda=Pin(self.SDA), scl=Pin(self.SCL), freq=100000))

    def read_config(self):
        """The text of the configuration. Raises OSError where there is none."""
        with open(_CONFIG) as file:
            return file.read()

    def write_config(self, text):
        """Put another configuration in force; the one until now can be restored. Raises OSError.
        """
        from drivers.config_files import ConfigFiles

        ConfigFiles().write(text)

    def restore_config(self):
        """Put the configuration before this one in force again. Raises OSError where there is
        none."""
        from drivers.config_files import ConfigFiles

        ConfigFiles().restore()

    def button_held(self):
        """Whether the button is pressed now, and for 3 s more."""
        if self.BUTTON is None:
            return False
        # an ESP32's GPIO34 to 39 have no pull-up: the board has one there
        pin = Pin(self.BUTTON, Pin.IN, Pin.PULL_UP if self.BUTTON < 34 else None)
        for _ in range(_HELD_MS // _LOOK_MS):
            if pin():
                return False
            time.sleep_ms(_LOOK_MS)
        return True

    def reset(self):
        """Restart."""
        machine.reset()

    def open_network(self, settings, hostname):
        """Make `network` as the configuration says. Raises ValueError where that lacks it."""
        from drivers.wifi import Wifi

        if not settings["ssid"]:
            raise ValueError("network.ssid is missing")
        import network

        self.network = Wifi(network.WLAN(), network, settings["ssid"], settings["password"],
                            settings["country"], **_common(settings, hostname))

    def open_uart(self, baudrate, bits, parity, stop):
        """The meter's line; parity N, E or O."""
        return UART(1, baudrate=baudrate, bits=bits, parity=_PARITY[parity], stop=stop,
                    tx=Pin(self.TX), rx=Pin(self.RX), rxbuf=_RX_BYTES)

    def pulse_input(self):
        """A fresh count of the S0 input's pulses: by the chip's counter where MicroPython has it
        (1.26, and not on every chip), else by interrupt."""
        pin = Pin(self.PULSES, Pin.IN, Pin.PULL_UP)
        try:
            from machine import Counter
        except ImportError:
            from drivers.pulse_meter import EdgeRing

            ring = EdgeRing(pin)
            pin.irq(ring.isr, Pin.IRQ_FALLING | Pin.IRQ_RISING)
            return ring
        return Counter(0, pin, edge=Counter.FALLING, filter_ns=_FILTER_NS)

    def rom_slots(self):
        """The two images of the firmware, in a partition or in files, or None where there are
        none."""
        found = Partition.find(Partition.TYPE_DATA, label="romfs")
        if found:
            from drivers.rom_slots import RomSlots

            return RomSlots(self.nvs, found[0])
        from drivers.file_slots import FileSlots

        slots = FileSlots(self.nvs)
        return slots if slots.there() else None

    def journal_flash(self):
        """The journal's flash without a file system. Raises OSError where the partition table is
        another firmware's."""
        found = Partition.find(Partition.TYPE_DATA, label="journal")
        if not found:
            raise OSError(19, "no partition 'journal': flash evmeter's partition table")
        return found[0]

    def mount_journal(self):
        """The journal's littlefs. Raises OSError on blank or damaged flash; never formats."""
        from vfs import VfsLfs2

        return VfsLfs2(self.journal_flash(), readsize=_LITTLEFS_PAGE, progsize=_LITTLEFS_PAGE,
                       lookahead=_LOOKAHEAD, mtime=False)

    def format_journal(self):
        """Make an empty littlefs; for commissioning only."""
        from vfs import VfsLfs2

        VfsLfs2.mkfs(self.journal_flash(), readsize=_LITTLEFS_PAGE, progsize=_LITTLEFS_PAGE,
                     lookahead=_LOOKAHEAD)

    def set_time(self, unix_s):
        """Set the chip's clock, by which TLS judges certificates."""
        when = time.gmtime(unix_s - _TO_2000)
        RTC().datetime((when[0], when[1], when[2], when[6], when[3], when[4], when[5], 0))

    def halt(self, text):
        """Say why the firmware cannot start. main.py ends behind it, and the prompt comes, if it
        is not closed: a reset would not help."""
        print(text)


class EthernetChip(Chip):
    """A chip with a PHY on its Ethernet MAC; `lan(network)` gives the network.LAN."""

    def open_network(self, settings, hostname):
        """Make `network`. The MAC's data pins are fixed: GPIO19, 21, 22, 25, 26, 27."""
        import network

        from drivers.ethernet import Ethernet

        self.network = Ethernet(self.lan(network), network, **_common(settings, hostname))


def _common(settings, hostname):
    """What Wi-Fi and Ethernet are told alike."""
    address = settings["address"]
    return {"hostname": hostname, "dns": settings["dns"], "address": address and (
        address, settings["mask"], settings["gateway"],
        settings["dns"][0] if settings["dns"] else settings["gateway"])}
