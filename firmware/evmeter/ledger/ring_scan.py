"""Lays a ring of sectors (ring.py), and finds out what is on one. Needed at the boot alone."""

import binascii
import struct
from array import array

from micropython import const

from evmeter.ledger import StoreError, ring, small_files
from evmeter.ledger.sectors import HEAD, HEADER, ROOM, SECTOR, UNIT, Sectors, padded
from evmeter.ledger.small_files import ENTRY_BYTES, TAG, SmallFiles

_LEAST_SMALL = const(4)  # sectors of small files
_WORN_ALIKE = const(16)  # as many as 1 MiB has: more serve only where there is much room
_LEAST = const(8)
_LITTLEFS = b"littlefs"
_BLANK = b"\xff" * UNIT
_MARK_BITS = const(8)
_CRC_AT = const(12)
_WORK = const(128)
_FRAME_MAGIC = const(0x5AA5)  # of ledger/journal.py
_CRC_BEHIND = const(25)


class Look(Sectors):
    """Tells what sectors hold. Methods raise OSError where the device does."""

    def is_littlefs(self):
        """Whether a littlefs begins here: it names itself in both blocks of its first pair."""
        return _LITTLEFS in (self.peek(0, 8, 8), self.peek(1, 8, 8))

    def is_blank(self, block):
        """Whether a sector's header is blank."""
        return self.peek(block, 0, HEAD) == _BLANK + _BLANK

    def header(self, block, magic):
        """(counter, first sequence number) of a sector; counter 0: free, -1: damaged, foreign."""
        head = self.peek(block, 0, HEAD)
        if head[:UNIT] == _BLANK or self._is_marked(head[UNIT:]):
            return 0, 0
        found, counter, first, crc = struct.unpack(HEADER, head[:UNIT])
        if found != magic or crc != self.crc(block, 0, _CRC_AT):
            return -1, 0
        return counter, first

    @staticmethod
    def _is_marked(mark):
        """Bits that flipped do not make a mark; a part of it, as a power cut leaves it, does."""
        ones = bin(int.from_bytes(mark, "little")).count("1")
        return ones <= 8 * UNIT - _MARK_BITS

    def used(self, block):
        """How many bytes of a sector's contents are used: behind them, all is blank."""
        at = SECTOR
        while at > HEAD and self.peek(block, at - UNIT, UNIT) == _BLANK:
            at -= UNIT
        return at - HEAD

    def first_frame(self, block):
        """The number of a sector's first frame where the header is damaged; 0: none is whole."""
        magic, length, seq = struct.unpack("<HHI", self.peek(block, HEAD, 8))
        end = HEAD + length + _CRC_BEHIND
        if magic != _FRAME_MAGIC or end + 4 > SECTOR:
            return 0
        same = struct.unpack("<I", self.peek(block, end, 4))[0] == self.crc(block, HEAD, end)
        return seq if same else 0

    def crc(self, block, at, end):
        """CRC-32 of the bytes from `at` to `end` of a sector."""
        crc = 0
        while at < end:
            piece = self.peek(block, at, min(_WORK, end - at))
            crc = binascii.crc32(piece, crc)
            at += len(piece)
        return crc & 0xFFFFFFFF


def _small_sectors(count):
    """How many of `count` sectors the small files have."""
    return max(_LEAST_SMALL, min(_WORN_ALIKE, count // 16), count // 32)


def lay(flash):
    """Lay the empty store on a block device; what it held is lost."""
    look = Look(flash)
    for block in range(look.count):
        if not look.is_blank(block):
            look.erase(block)
    SmallFiles(look, _small_sectors(look.count), ring.NAMES).write(ring.NAMES[0], b"")


def find(flash, names):
    """What is on a ring: (number of sectors with small files, the small files `names`, numbers of
    the first frames of the segments in order, their places, the newest place, its counter, how
    much of it is used, how many small sectors are damaged, damaged places, places that hold what
    is written once more behind them).

    Raises StoreError where there is no ring; OSError.
    """
    look = Look(flash)
    if look.count < _LEAST:
        raise StoreError("%d sectors are too few for a journal" % look.count)
    if look.is_littlefs():  # whose free blocks may hold an older ring
        raise StoreError("no ring of sectors, but a littlefs is there")
    base = _small_sectors(look.count)
    small, blocks, damaged = _small_files(look, base, names)
    if blocks and blocks != look.count:
        raise StoreError("the journal was laid on %d sectors; the flash has %d"
                         % (blocks, look.count))
    segments, places, newest, counter, odd, stale = _frames(look, base)
    if not segments and not blocks:
        raise StoreError("no ring of sectors is there")
    size = look.used(base + newest) if segments else ROOM
    return (base, SmallFiles(Sectors(flash), base, names, *small), segments, places, newest,
            counter, size, damaged, odd, stale)


def _frames(look, base):
    """Segments, places, newest place, counter, damaged and stale places, as `find` gives them."""
    count = look.count - base
    firsts = array("I", bytes(4 * count))
    odd = []
    newest, highest, latest, last = -1, 0, -1, 0
    for place in range(count):
        counter, first = look.header(base + place, ring.MAGIC)
        if counter < 0:
            first = look.first_frame(base + place)
            if not first:
                odd.append(place)
        if (first, counter) > (highest, latest) and first:
            newest, highest, latest = place, first, counter
        last = max(last, counter)
        firsts[place] = first
    segments = []
    places = array("H", bytes(2 * count))
    stale = []
    for step in range(count):
        place = (newest + 1 + step) % count
        first = firsts[place]
        if not first:
            continue
        # going round from behind the newest, only one that was kept longer than others is not the
        # last so far
        at = len(segments)
        while at and segments[at - 1] > first:
            at -= 1
        if at and segments[at - 1] == first:
            # its first frame did not get there, and was written once more
            stale.append(places[at - 1])
        else:
            for index in range(len(segments), at, -1):
                places[index] = places[index - 1]
            segments.insert(at, first)
            at += 1
        places[at - 1] = place
    return segments, places, newest, last, odd, stale


def _small_files(look, count, names):
    """(what SmallFiles takes of what is there, size for which the store was laid or 0, how many
    sectors are damaged)."""
    odd = []
    newest = -1
    last = blocks = 0
    for block in range(count):
        counter, laid = look.header(block, small_files.MAGIC)
        if counter < 0:
            odd.append(block)
        if counter > last:
            newest, last, blocks = block, counter, laid
    # the next to be begun: a power cut may have torn its erase
    damaged = len(odd) - ((newest + 1) % count in odd)
    bodies = [None] * len(names)
    here, size = 0, ROOM
    for step in range(count if newest >= 0 else 0):
        block = (newest - step) % count
        if None not in bodies:
            break
        if step and look.header(block, small_files.MAGIC)[0] <= 0:
            continue
        found, used = _entries(look, block, len(names))
        for which, body in enumerate(found):
            if body is not None and bodies[which] is None:
                bodies[which] = body
            if body is not None and not step:
                here |= 1 << which
        if not step:
            size = used
    return (bodies, newest, last, here, size), blocks, damaged


def _entries(look, block, names):
    """The newest body of each of so many names in a sector, and how much of it is used: all of it
    where something is torn, for nothing is written behind that."""
    size = used = look.used(block)
    found = [None] * names
    entry = bytearray(ENTRY_BYTES)
    at = 0
    while at < size:
        length = min(ENTRY_BYTES, ROOM - at)
        look.read(block, entry, length, HEAD + at)
        end = 4 + entry[2]
        at += UNIT
        if (entry[0] != TAG or entry[1] >= names or end + 4 > length
                or struct.unpack_from("<I", entry, end)[0]
                != binascii.crc32(memoryview(entry)[:end]) & 0xFFFFFFFF):
            used = ROOM
            continue
        found[entry[1]] = bytes(memoryview(entry)[4:end])
        at += padded(end + 4) - UNIT
    return found, used
