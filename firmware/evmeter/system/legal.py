"""The legally relevant part of this firmware, and its SHA-256 for the audit log. Needed once, at a
start.

It is what reads the meter and the pilot, decides where a session begins and ends, and records: the
packages PARTS. The hash is over each of their files, by name in each folder: its path in the
image, a zero byte, its length in 4 bytes, big-endian, and its bytes, as they lie in flash. What
`evmeter release` tells of an image is worked out the same way (tools: device/legal.py).
"""

import hashlib
import os
import sys
from binascii import hexlify

from micropython import const

from evmeter import VERSION

PARTS = ("drivers", "evmeter.ledger", "evmeter.metering", "evmeter.session")
_SUFFIXES = ("mpy", ".py", "son")  # what else lies there is no part of an image
_FOLDER = const(0x4000)


def _add(whole, folder, inside, buffer):
    for name in sorted(os.listdir(folder)):
        path = folder + "/" + name
        found = os.stat(path)
        if found[0] & _FOLDER:
            _add(whole, path, inside + "/" + name, buffer)
        elif name[-3:] in _SUFFIXES:
            whole.update((inside + "/" + name).encode() + b"\x00" + found[6].to_bytes(4, "big"))
            with open(path, "rb") as file:
                while True:
                    count = file.readinto(buffer)
                    if not count:
                        break
                    whole.update(memoryview(buffer)[:count])


def digest():
    """SHA-256 in hex over the files of PARTS; "" where they are no files, but frozen into
    MicroPython."""
    whole, buffer = hashlib.sha256(), bytearray(512)
    try:
        for part in PARTS:
            _add(whole, sys.modules[part].__file__.rpartition("/")[0], part.replace(".", "/"),
                 buffer)
    except OSError:
        return ""
    return hexlify(whole.digest()).decode()


def entry(board, boots):
    """What the audit entry `firmware` of this boot tells."""
    try:
        lock = board.nvs.get_i32("lock")
    except OSError:  # nobody has closed the prompt yet
        lock = 0
    return {"fw": VERSION, "legal": digest(), "boot": boots, "cause": board.reset_cause,
            "lock": lock}
