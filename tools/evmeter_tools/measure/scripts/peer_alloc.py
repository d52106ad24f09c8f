# peer_alloc.py POLLS: bytes that the same reading allocates with micropython-modbus.
import gc
import json
import struct
import sys

from quiet_uart import QuietUart


class _Uart(QuietUart):
    def __init__(self, *_, **__):
        QuietUart.__init__(self, 20)


class _Machine:
    """What the package takes from the module `machine`."""

    UART = _Uart
    Pin = object


sys.modules["machine"] = _Machine

from umodbus.serial import Serial  # noqa: E402

serial = Serial(baudrate=9600, pins=(1, 2))


def _float(words, at):
    return struct.unpack(">f", struct.pack(">HH", words[at], words[at + 1]))[0]


def poll():
    words = serial.read_input_registers(1, 0x00, 14, False)
    first = _float(words, 0), _float(words, 6), _float(words, 12)
    words = serial.read_input_registers(1, 0x46, 6, False)
    return first, _float(words, 0), _float(words, 2), _float(words, 4)


polls = int(sys.argv[1])
for _ in range(3):
    found = poll()
gc.collect()
gc.disable()
before = gc.mem_alloc()
for _ in range(polls):
    found = poll()
print(json.dumps({"bytes": (gc.mem_alloc() - before) // polls, "kwh": found[2]}))
