"""Small files on a ring of sectors: each write adds an entry, and the newest of a name counts.

header        has the size of the store, in sectors, in the place of the sequence number
entry         C5 | which | length | 00 | body | CRC-32, filled up to 16 bytes with zeros

A sector that is begun gets the newest entry of every name, so that the one before it is not needed
any longer. One sector more is erased about every 35 writes.
"""

import binascii
import struct

from micropython import const

from evmeter.ledger.sectors import HEAD, ROOM, padded

MOST = const(96)  # bytes of a body
MAGIC = b"EVS1"
ENTRY_BYTES = const(112)  # the longest
TAG = const(0xC5)


class SmallFiles:
    """The small files `names` in the first `count` of `sectors`. Methods raise OSError.

    What is there already: the `bodies`, the `newest` sector with its `counter`, and of that one
    which names are in it (`here`, bits) and how much of it is used (`size`).
    """

    def __init__(self, sectors, count, names, bodies=None, newest=-1, counter=0, here=0,
                 size=ROOM):
        self._sectors = sectors
        self._count = count
        self._names = names
        self._entry = bytearray(ENTRY_BYTES)
        self._bodies = bodies or [None] * len(names)
        self._here = here
        self._newest = newest
        self._counter = counter
        self._size = size

    def read(self, name):
        """The bytes of a file, or None where it is empty or missing."""
        return self._bodies[self._names.index(name)] or None if name in self._names else None

    def write(self, name, body):
        """Replace a file whole."""
        if self._size + len(self._names) * ENTRY_BYTES > ROOM:
            self._newest = (self._newest + 1) % self._count
            self._counter += 1
            self._here = 0
            self._sectors.begin(self._newest, MAGIC, self._counter, self._sectors.count)
            self._size = 0
        self._put(self._names.index(name), body)
        for which in range(len(self._names)):
            if not self._here & 1 << which:
                self._put(which, self._bodies[which] or b"")

    def _put(self, which, body):
        entry = self._entry
        end = 4 + len(body)
        length = padded(end + 4)
        struct.pack_into("BBBB", entry, 0, TAG, which, len(body), 0)
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
