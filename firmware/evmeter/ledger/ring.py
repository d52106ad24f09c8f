"""The store behind the journal on bare flash: a ring of 4 KiB sectors without a file system.

The first sixteenth of the partition (at least four sectors) holds the small files, the rest the
frames as the journal gives them, each filled up to 16 bytes with zeros; each part goes round by
itself, so that its sectors wear alike. An append is one program and no erase, but where it begins
a sector. What a power cut tears is told by its CRC; nothing is written behind it in that sector.
"""

import struct
from array import array

from micropython import const

from evmeter.ledger import StoreError
from evmeter.ledger.sectors import HEAD, ROOM, SECTOR, UNIT, Sectors, padded
from evmeter.ledger.small_files import MOST, SmallFiles

_MAGIC = b"EVJ1"
_NAMES = ("cursor", "session", "refused")
_LEAST_SMALL = const(4)  # sectors
_LEAST = const(8)
_FRAME_MAGIC = const(0x5AA5)  # of ledger/journal.py
_CRC_BEHIND = const(25)


def _parts(sectors):
    """How many sectors the small files have."""
    return max(_LEAST_SMALL, sectors.count // 16)


class RingStore:
    """A ring of sectors on the block device that `device()` gives (esp32.Partition's methods)."""

    unit = UNIT
    tears = True

    def __init__(self, device):
        self._device = device
        self._sectors = None
        self._small = None
        self._base = 0  # the first sector of frames
        self._places = array("H")  # of the segments, from `_oldest` on, round
        self._used = bytearray()  # bits: places that must not be erased
        self._oldest = 0
        self._newest = -1  # the place that was begun last
        self._counter = 0
        self._size = ROOM  # of the newest segment
        self._count = 0  # sectors of frames
        self.segments = []
        self.capacity = 0  # one place less than there are: the next one may turn out worn
        self.damaged = 0

    def open(self):
        """Find what is on the flash. Raises StoreError where it holds no store."""
        try:
            self._sectors = sectors = Sectors(self._device())
            if sectors.count < _LEAST:
                raise StoreError("%d sectors are too few for a journal" % sectors.count)
            if sectors.is_littlefs():  # whose free blocks may hold an older ring
                raise StoreError("no ring of sectors, but a littlefs is there")
            self._base = _parts(sectors)
            self._count = sectors.count - self._base
            self.capacity = self._count - 1
            self._small = SmallFiles(sectors, self._base, _NAMES)
            self._small.open()
            if self._small.blocks != sectors.count:
                raise StoreError("the journal was laid on %d sectors; the flash has %d"
                                 % (self._small.blocks, sectors.count))
            self.damaged = self._small.damaged
            self._open_frames()
        except OSError as error:
            raise StoreError("the journal cannot be read (error %s)" % error.args[0]) from None
        if not self.segments and not self._small.found:
            raise StoreError("no ring of sectors is there")

    def _open_frames(self):
        count = self._count
        self._places = array("H", bytes(2 * count))
        firsts = array("I", bytes(4 * count))
        odd = []
        newest, highest, latest = -1, 0, -1
        for place in range(count):
            counter, first = self._sectors.header(self._base + place, _MAGIC)
            if counter < 0:
                first = self._first_frame(self._base + place)
                if not first:
                    odd.append(place)
            if (first, counter) > (highest, latest) and first:
                newest, highest, latest = place, first, counter
            self._counter = max(self._counter, counter)
            firsts[place] = first
        self._oldest = 0
        self._newest = newest
        self._used = bytearray((count + 7) // 8)
        self.segments = []
        for step in range(count):
            place = (newest + 1 + step) % count
            if firsts[place]:
                self._found(place, firsts[place])
        following = self._next_free(newest)
        for place in odd:
            if place != following:  # there, a power cut may have torn an erase
                self.damaged += 1
                self._pass_over(place)
        self._size = self._sectors.used(self._base + newest) if self.segments else ROOM

    def _found(self, place, first):
        """Put a segment in its place in the order. Going round from behind the newest, only one
        that was kept longer than others is not the last so far."""
        segments, places = self.segments, self._places
        at = len(segments)
        while at and segments[at - 1] > first:
            at -= 1
        if at and segments[at - 1] == first:
            # its first frame did not get there, and was written once more
            self._give_back(places[at - 1])
            places[at - 1] = place
        else:
            for index in range(len(segments), at, -1):
                places[index] = places[index - 1]
            places[at] = place
            segments.insert(at, first)
        self._mark(place, True)

    def _mark(self, place, used):
        bit = 1 << (place & 7)
        self._used[place >> 3] = self._used[place >> 3] & ~bit | (bit if used else 0)

    def _is_used(self, place):
        return self._used[place >> 3] & 1 << (place & 7)

    def _pass_over(self, place):
        """A damaged or worn place is not begun until the ring comes round."""
        self._mark(place, True)
        self.capacity -= 1

    def _next_free(self, place):
        """The next place behind `place` that can be begun, or -1."""
        for _ in range(self._count):
            place = (place + 1) % self._count
            if not self._is_used(place):
                return place
        return -1

    def _first_frame(self, block):
        """The number of a sector's first frame where the header is damaged; 0: none is whole."""
        start = bytearray(8)
        self._sectors.read(block, start, 8, HEAD)
        magic, length, seq = struct.unpack("<HHI", start)
        end = HEAD + length + _CRC_BEHIND
        if magic != _FRAME_MAGIC or end + 4 > SECTOR:
            return 0
        self._sectors.read(block, start, 4, end)
        same = struct.unpack_from("<I", start)[0] == self._sectors.crc(block, HEAD, end)
        return seq if same else 0

    @staticmethod
    def format(flash):
        """Lay the empty store on a block device; what it held is lost."""
        sectors = Sectors(flash)
        for block in range(sectors.count):
            if not sectors.is_blank(block):
                sectors.erase(block)
        SmallFiles(sectors, _parts(sectors), _NAMES).write(_NAMES[0], b"")

    def append(self, seq, frame, length):
        """Store `frame[:length]`, the frame number `seq`; the bytes behind it up to the unit are
        overwritten. Raises StoreError if it is not there afterwards."""
        end = padded(length)
        frame[length:end] = bytes(end - length)
        code = 0
        for _ in range(2):
            if self._size + end > ROOM:
                self._advance(seq)
            at = self._size
            self._size = ROOM  # nothing is written behind what fails
            try:
                self._sectors.program(self._block(self.segments[-1]), HEAD + at,
                                      memoryview(frame)[:end])
            except OSError as error:
                code = error.args[0]
                continue
            self._size = at + end
            return
        raise StoreError("a frame was not written (error %s)" % code)

    def _advance(self, seq):
        """Begin the next sector; where the first one cannot be erased, the one behind it."""
        code = 0
        worn = -1
        place = self._next_free(self._newest)
        for failures in range(1, 5):
            if place < 0:
                raise StoreError("the journal is full")
            try:
                self._sectors.begin(self._base + place, _MAGIC, self._counter + 1, seq)
            except OSError as error:
                code = error.args[0]
                if failures == 2:
                    worn = place
                    place = self._next_free(place)
                continue
            if worn >= 0:
                self._pass_over(worn)
            if self.segments and self.segments[-1] == seq:
                self._give_back(self._newest)  # its first frame could not be written
                self.segments.pop()
            self._places[(self._oldest + len(self.segments)) % self._count] = place
            self.segments.append(seq)
            self._mark(place, True)
            self._counter += 1
            self._newest = place
            self._size = 0
            return
        raise StoreError("no sector can be begun (error %s)" % code)

    def start_segment(self):
        """The next append begins a new sector: the newest ends in bytes that are no frame."""
        self._size = ROOM

    def set_aside(self, first):
        """Take the newest segment, which holds no frame at all, out of the journal's way. It stays
        as it is until the ring comes round."""
        self._mark(self._block(first) - self._base, False)
        self.segments.remove(first)
        self._size = ROOM

    def _block(self, first):
        index = self._oldest + self.segments.index(first)
        return self._base + self._places[index % self._count]

    def read(self, first, offset, buffer, length):
        """Read `length` bytes at `offset` of a segment into `buffer`; returns how many came."""
        room = self._size if first == self.segments[-1] else ROOM
        length = max(0, min(length, room - offset))
        try:
            self._sectors.read(self._block(first), buffer, length, HEAD + offset)
        except OSError as error:
            raise StoreError("segment %d cannot be read (error %s)"
                             % (first, error.args[0])) from None
        return length

    def drop(self, first):
        """Give a segment's flash back; going round, the next sectors are begun there."""
        places, oldest, count = self._places, self._oldest, self._count
        index = self.segments.index(first)
        place = places[(oldest + index) % count]
        self._give_back(place)
        for at in range(oldest + index, oldest, -1):  # those that are kept longer
            places[at % count] = places[(at - 1) % count]
        self.segments.pop(index)
        self._oldest = (oldest + 1) % count
        place = (place + 1) % count
        while self._is_used(place) and not self._is_held(place):  # passed over before
            self._mark(place, False)
            self.capacity += 1
            place = (place + 1) % count

    def _is_held(self, place):
        """Whether a segment of the journal is there."""
        for at in range(self._oldest, self._oldest + len(self.segments)):
            if self._places[at % self._count] == place:
                return True
        return False

    def _give_back(self, place):
        self._mark(place, False)
        for _ in range(2):
            try:
                self._sectors.give_back(self._base + place)
                return
            except OSError:
                continue
        self.damaged += 1  # nobody needs what it holds: at the worst it is there once more

    def read_small(self, name):
        """The bytes of a small file, or None where it is empty, missing or damaged."""
        return self._small.read(name)

    def write_small(self, name, body):
        """Replace a small file whole: old or new after a power cut. Raises StoreError."""
        if name not in _NAMES or len(body) > MOST:
            raise StoreError("%s: no small file of %d bytes" % (name, len(body)))
        try:
            self._small.write(name, body)
        except OSError as error:
            raise StoreError("%s was not written (error %s)" % (name, error.args[0])) from None
