"""Small files on a ring of sectors: each write adds an entry, and the newest of a name counts.

header        has the size of the store, in sectors, in the place of the sequence number
entry         C5 | which | length | 00 | body | CRC-32, filled up to 16 bytes with zeros

A sector that is begun gets the newest entry of every name, so that the one before it is not needed
any longer. One sector more is erased about every 35 writes.
"""

import binascii
import struct

from micropython import const

from evmeter.ledger.sectors import HEAD, ROOM, UNIT, padded

MOST = const(96)  # bytes of a body
_MAGIC = b"EVS1"
_ENTRY_BYTES = const(112)  # the longest
_TAG = const(0xC5)


class SmallFiles:
    """The small files `names` in the first `count` of `sectors`. Methods raise OSError."""

    def __init__(self, sectors, count, names):
        self._sectors = sectors
        self._count = count
        self._names = names
        self._entry = bytearray(_ENTRY_BYTES)
        self._bodies = [None] * len(names)
        self._here = 0  # bits: which names are in the newest sector
        self._newest = -1
        self._counter = 0
        self._size = ROOM
        self.damaged = 0
        self.blocks = sectors.count  # for which the store was laid

    @property
    def found(self):
        """Whether there is a sector of small files."""
        return self._newest >= 0

    def open(self):
        """Find the newest entry of each name."""
        odd = []
        for block in range(self._count):
            counter, blocks = self._sectors.header(block, _MAGIC)
            if counter < 0:
                odd.append(block)
            if counter > self._counter:
                self._newest, self._counter, self.blocks = block, counter, blocks
        # the next to be begun: a power cut may have torn its erase
        self.damaged = len(odd) - ((self._newest + 1) % self._count in odd)
        for step in range(self._count):
            block = (self._newest - step) % self._count
            if not self.found or None not in self._bodies:
                return
            if self._sectors.header(block, _MAGIC)[0] > 0:
                self._load(block, not step)

    def _load(self, block, newest):
        """Take what no newer sector had."""
        size = self._sectors.used(block)
        found = [None] * len(self._names)
        whole = True
        entry = self._entry
        at = 0
        while at < size:
            length = min(_ENTRY_BYTES, ROOM - at)
            self._sectors.read(block, entry, length, HEAD + at)
            end = 4 + entry[2]
            at += UNIT
            if (entry[0] != _TAG or entry[1] >= len(found) or end + 4 > length
                    or struct.unpack_from("<I", entry, end)[0]
                    != binascii.crc32(memoryview(entry)[:end]) & 0xFFFFFFFF):
                whole = False
                continue
            found[entry[1]] = bytes(memoryview(entry)[4:end])
            at += padded(end + 4) - UNIT
        for which, body in enumerate(found):
            if body is not None and self._bodies[which] is None:
                self._bodies[which] = body
            if body is not None and newest:
                self._here |= 1 << which
        if newest and whole:  # nothing is written behind what a power cut tore
            self._size = size

    def read(self, name):
        """The bytes of a file, or None where it is empty or missing."""
        return self._bodies[self._names.index(name)] or None if name in self._names else None

    def write(self, name, body):
        """Replace a file whole."""
        if self._size + len(self._names) * _ENTRY_BYTES > ROOM:
            self._newest = (self._newest + 1) % self._count
            self._counter += 1
            self._here = 0
            self._sectors.begin(self._newest, _MAGIC, self._counter, self._sectors.count)
            self._size = 0
        self._put(self._names.index(name), body)
        for which in range(len(self._names)):
            if not self._here & 1 << which:
                self._put(which, self._bodies[which] or b"")

    def _put(self, which, body):
        entry = self._entry
        end = 4 + len(body)
        length = padded(end + 4)
        struct.pack_into("BBBB", entry, 0, _TAG, which, len(body), 0)
        entry[4:end] = body
        crc = binascii.crc32(memoryview(entry)[:end]) & 0xFFFFFFFF
        struct.pack_into("<I", entry, end, crc)
        entry[end + 4 : length] = bytes(length - end - 4)
        at = self._size
        self._size = ROOM  # nothing is written behind what fails
        self._sectors.program(self._newest, HEAD + at, memoryview(entry)[:length])
        self._bodies[which] = bytes(body)
        self._size = at + length
        self._here |= 1 << which
