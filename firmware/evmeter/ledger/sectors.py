"""Sectors of raw flash that are begun, filled and given back in turn: what ledger/ring.py is of.

sector        magic | counter u32 | first sequence number u32 | CRC-32 | 16 bytes: blank, or zeros
              once the sector is given back | contents from byte 32 on

Numbers are little-endian. A sector is erased before it is begun, and no byte in it is programmed
twice, so that bits only go from 1 to 0. Each program begins and ends at a multiple of 16, the unit
of flash encryption, and is read back. What is on a ring that was written, ring_scan.py finds out.
"""

import binascii
import struct

from micropython import const

SECTOR = const(4096)
HEAD = const(32)
ROOM = const(4064)  # contents of a sector
UNIT = const(16)
_MARK_AT = const(16)
_CRC_AT = const(12)
HEADER = "<4sIII"
_WORK = const(128)
_BLANK = b"\xff" * UNIT
_EIO = const(5)


def padded(length):
    """`length` filled up to the unit."""
    return (length + UNIT - 1) // UNIT * UNIT


class Sectors:
    """The sectors of the block device `flash` (esp32.Partition's methods). Methods raise OSError
    where the device does."""

    def __init__(self, flash):
        self._flash = flash
        self._work = bytearray(_WORK)
        self._head = bytearray(UNIT)
        self.count = flash.ioctl(4, 0)

    def read(self, block, buffer, length, at):
        """Fill `buffer[:length]` from byte `at` of a sector."""
        self._flash.readblocks(block, memoryview(buffer)[:length], at)

    def peek(self, block, at, length):
        """At most 128 bytes from byte `at` of a sector."""
        self.read(block, self._work, length, at)
        return bytes(memoryview(self._work)[:length])

    def begin(self, block, magic, counter, first):
        """Erase a sector and write its header."""
        self.erase(block)
        head = self._head
        struct.pack_into(HEADER, head, 0, magic, counter, first, 0)
        crc = binascii.crc32(memoryview(head)[:_CRC_AT]) & 0xFFFFFFFF
        struct.pack_into("<I", head, _CRC_AT, crc)
        self.program(block, 0, head)

    def erase(self, block):
        """Make a sector blank."""
        self._flash.ioctl(6, block)

    def give_back(self, block):
        """Mark a sector as free."""
        if self.peek(block, _MARK_AT, UNIT) == _BLANK:
            self.program(block, _MARK_AT, bytes(UNIT))

    def program(self, block, at, data):
        """Write and read back. Raises OSError where `data` is not there afterwards."""
        code = 0
        try:
            self._flash.writeblocks(block, data, at)
        except OSError as error:
            code = error.args[0]  # how much of it got there, only reading tells
        for offset in range(0, len(data), _WORK):
            piece = bytes(data[offset : offset + _WORK])
            if self.peek(block, at + offset, len(piece)) != piece:
                raise OSError(code or _EIO)
