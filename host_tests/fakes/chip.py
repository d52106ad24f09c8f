"""MicroPython's modules of an ESP32 (machine, esp32, network): they keep what they are told, and
refuse what the chip cannot do."""

import sys

# chip: pins that are not there or the flash's, inputs only, inputs of ADC1
_PINS = {
    "esp32": ((6, 7, 8, 9, 10, 11, 20, 24, 28, 29, 30, 31), (34, 35, 36, 37, 38, 39),
              (32, 33, 34, 35, 36, 37, 38, 39)),
    "esp32s3": (tuple(range(22, 38)), (), tuple(range(1, 11))),
    "esp32c3": (tuple(range(11, 18)) + tuple(range(22, 49)), (), (0, 1, 2, 3, 4)),
}


class Pin:
    IN, OUT, PULL_UP, IRQ_FALLING, IRQ_RISING = 1, 3, 2, 2, 1
    chip = "esp32"
    used = {}  # number: mode of all pins that were made

    def __init__(self, number, mode=None, pull=None, value=None):
        missing, inputs, _ = _PINS[self.chip]
        if number in missing or (number in inputs and (mode == self.OUT or pull)):
            raise ValueError("invalid pin")
        self.number = number
        self.level = value
        self.handler = None
        Pin.used[number] = mode

    def __call__(self, level=None):
        if level is None:
            return self.level or 0
        self.level = level
        return None

    def irq(self, handler, trigger):
        self.handler, self.trigger = handler, trigger


class ADC:
    ATTN_11DB = 3

    def __init__(self, pin, atten):
        if pin.number not in _PINS[pin.chip][2]:
            raise ValueError("not a pin of ADC1")
        self.pin, self.atten = pin, atten

    def read_uv(self):
        return 1300000


class RTC:
    kept = b""
    told = None

    def memory(self, data=None):
        if data is None:
            return RTC.kept
        RTC.kept = bytes(data)
        return None

    def datetime(self, when):
        RTC.told = when


class UART:
    def __init__(self, number, **told):
        self.number, self.told = number, told


class WDT:
    made = 0

    def __init__(self, timeout):
        self.timeout, self.feeds = timeout, 0
        WDT.made += 1

    def feed(self):
        self.feeds += 1


class Counter:
    FALLING = 2

    def __init__(self, number, pin, edge, filter_ns):
        self.number, self.pin, self.edge, self.filter_ns = number, pin, edge, filter_ns

    def value(self):
        return 7


class I2C:
    def __init__(self, number, sda, scl, freq):
        self.pins = sda.number, scl.number


class NVS:
    def __init__(self, name):
        self.name = name


class Partition:
    TYPE_DATA = 1
    there = ("journal", "romfs", "vfs")

    def __init__(self, label):
        self.label = label

    @classmethod
    def find(cls, kind, label):
        return [cls(label)] if kind == cls.TYPE_DATA and label in cls.there else []


class _Module:
    def __init__(self, **names):
        for name in names:
            setattr(self, name, names[name])


class _Nic:
    def __init__(self, **told):
        self.told = told


def install(chip, cause=1, counter=True):
    """Put the modules of `chip` in place; `cause` is machine.reset_cause(). `remove` ends it."""
    Pin.chip = chip
    Pin.used.clear()
    RTC.kept, RTC.told, WDT.made = b"", None, 0
    machine = _Module(Pin=Pin, ADC=ADC, RTC=RTC, UART=UART, WDT=WDT, I2C=I2C, PWRON_RESET=1,
                      HARD_RESET=2, WDT_RESET=3, DEEPSLEEP_RESET=4, SOFT_RESET=5,
                      reset_cause=lambda: cause, unique_id=lambda: b"\x01\x02\x03\x04\x05\x06")
    if counter:
        machine.Counter = Counter
    sys.modules["machine"] = machine
    sys.modules["esp32"] = _Module(NVS=NVS, Partition=Partition)
    sys.modules["network"] = _Module(WLAN=_Nic, LAN=_Nic, PHY_LAN8720=1)


def remove():
    """Take them away again."""
    for name in ("machine", "esp32", "network", "board", "chip"):
        sys.modules.pop(name, None)
