"""The store behind the journal on bare flash: a ring of 4 KiB sectors without a file system.

The first sectors of the partition (a sixteenth, at least 4; above 1 MiB 16, from 2 MiB on a
thirty-second) hold the small files, the rest the frames as the journal gives them, each filled up
to 16 bytes with zeros; each part goes round by itself, so that its sectors wear alike. An append
is one program and no erase, but where it begins a sector. What a power cut tears is told by its
CRC; nothing is written behind it in that sector.
"""

from array import array

from evmeter.ledger import StoreError
from evmeter.ledger.sectors import HEAD, ROOM, UNIT, Sectors, padded
from evmeter.ledger.small_files import MOST

MAGIC = b"EVJ1"
NAMES = ("cursor", "session", "refused")


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
        """Find what is on the flash. Raises StoreError where it holds no ring of sectors."""
        from evmeter.ledger import ring_scan

        try:
            flash = self._device()
            self._sectors = Sectors(flash)
            (self._base, self._small, self.segments, self._places, self._newest, self._counter,
             self._size, self.damaged, odd, stale) = ring_scan.find(flash, NAMES)
            self._count = count = len(self._places)
            self.capacity = count - 1
            self._oldest = 0
            self._used = bytearray((count + 7) // 8)
            for index in range(len(self.segments)):
                self._mark(self._places[index], True)
            for place in stale:
                self._give_back(place)
        except OSError as error:
            raise StoreError("the journal cannot be read (error %s)" % error.args[0]) from None
        following = self._next_free(self._newest)
        for place in odd:
            if place != following:  # there, a power cut may have torn an erase
                self.damaged += 1
                self._pass_over(place)

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
                self._sectors.begin(self._base + place, MAGIC, self._counter + 1, seq)
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
        if name not in NAMES or len(body) > MOST:
            raise StoreError("%s: no small file of %d bytes" % (name, len(body)))
        try:
            self._small.write(name, body)
        except OSError as error:
            raise StoreError("%s was not written (error %s)" % (name, error.args[0])) from None
