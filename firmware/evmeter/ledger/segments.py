"""The store behind the journal on littlefs: frames in segment files of at most one flash block.

/s/<first sequence number, 8 digits>   frames, back to back, at most 4,096 bytes
/<name>                                small files of at most 100 bytes, replaced whole

One write and one close for each frame: littlefs commits at the close, so that a power cut leaves a
file as it was before or as it is after. Files are closed by `with`: a file left open after an
exception would be committed later by the garbage collector.
"""

import binascii

from micropython import const

from evmeter.ledger import StoreError

_SEGMENT_BYTES = const(4096)
# Blocks for small files and copies in flight; directories take a sixteenth besides.
_RESERVE_BLOCKS = const(16)
_SMALL_BYTES = const(100)  # longer files cost a block erase at each write (littlefs inline limit)


class SegmentStore:
    """Segment files on a littlefs that `mount()` gives anew at each call.

    `unit`: frames begin at its multiples; `tears`: whether an interrupted append may leave a part.
    """

    unit = 1
    tears = False

    def __init__(self, mount, reserve_blocks=_RESERVE_BLOCKS):
        self._mount = mount
        self._reserve_blocks = reserve_blocks
        self._fs = None
        self._size = 0
        self.segments = []
        self.capacity = 0
        self.damaged = 0

    def open(self):
        """Mount and list. Raises StoreError where the flash holds no store."""
        try:
            self._fs = fs = self._mount()
            names = [entry[0] for entry in fs.ilistdir("/s")]
            blocks = fs.statvfs("/")[2]
            self.capacity = blocks - blocks // 16 - self._reserve_blocks
            segments = []
            self.damaged = 0
            for name in names:
                if len(name) == 8 and name.isdigit():
                    segments.append(int(name))
                else:
                    self.damaged += 1
            segments.sort()
            self.segments = segments
            self._size = fs.stat(self._path(segments[-1]))[6] if segments else _SEGMENT_BYTES
        except OSError as error:
            raise StoreError("the journal cannot be mounted (error %s)" % error.args[0]) from None

    @staticmethod
    def format(fs):
        """Lay the empty store on a freshly formatted littlefs."""
        fs.mkdir("/s")
        # Created here once: the first creation of a file is two commits, and a cut between them
        # leaves an empty file. "refused" is hardly ever needed, and would cost each commit.
        for name in ("cursor", "session"):
            with fs.open("/" + name, "wb") as file:
                file.write(b"")

    @staticmethod
    def _path(first):
        return "/s/%08d" % first

    def append(self, seq, frame, length):
        """Store `frame[:length]`, the frame number `seq`. Raises StoreError if it is not there
        afterwards; then nothing of it is."""
        fresh = self._size + length > _SEGMENT_BYTES
        first = seq if fresh else self.segments[-1]
        try:
            with self._fs.open(self._path(first), "wb" if fresh else "ab") as file:
                written = file.write(memoryview(frame)[:length])
            if written != length:
                raise OSError(28)
        except OSError as error:
            code = error.args[0]
            # What reached the flash is unknown: only a new mount tells.
            self.open()
            if self.segments and self.segments[-1] == first and (fresh or self._size > 0):
                if self._holds(first, frame, length):
                    return
            raise StoreError("a frame was not written (error %s)" % code) from None
        if fresh:
            self.segments.append(first)
            self._size = 0
        self._size += length

    def _holds(self, first, frame, length):
        at = self._size - length
        if at < 0:
            return False
        held = bytearray(length)
        self.read(first, at, held, length)
        return bytes(held) == bytes(memoryview(frame)[:length])

    def start_segment(self):
        """The next append begins a new segment: the newest ends in bytes that are no frame."""
        self._size = _SEGMENT_BYTES

    def set_aside(self, first):
        """Take a segment that holds no frame at all out of the journal's way: an empty one is a
        creation that a power cut interrupted, any other is kept for reading out."""
        path = self._path(first)
        try:
            if self._fs.stat(path)[6]:
                self._fs.rename(path, path + ".bad")
                self.damaged += 1
            else:
                self._fs.remove(path)
        except OSError as error:
            self.open()
            raise StoreError("a damaged segment cannot be set aside (error %s)"
                             % error.args[0]) from None
        self.segments.remove(first)
        self._size = _SEGMENT_BYTES

    def read(self, first, offset, buffer, length):
        """Read `length` bytes at `offset` of a segment into `buffer`; returns how many came."""
        try:
            with self._fs.open(self._path(first), "rb") as file:
                file.seek(offset)
                return file.readinto(memoryview(buffer)[:length])
        except OSError as error:
            raise StoreError("segment %d cannot be read (error %s)"
                             % (first, error.args[0])) from None

    def drop(self, first):
        """Give a segment's flash back."""
        try:
            self._fs.remove(self._path(first))
        except OSError as error:
            self.open()
            raise StoreError("a segment cannot be removed (error %s)" % error.args[0]) from None
        self.segments.remove(first)

    def read_small(self, name):
        """The bytes of a small file, or None where it is empty, missing or damaged."""
        try:
            with self._fs.open("/" + name, "rb") as file:
                data = file.read()
        except OSError:
            return None
        if len(data) < 5:
            return None
        body = data[:-4]
        if int.from_bytes(data[-4:], "little") != binascii.crc32(body) & 0xFFFFFFFF:
            return None
        return body

    def write_small(self, name, body):
        """Replace a small file whole: old or new after a power cut. Raises StoreError."""
        if len(body) + 4 > _SMALL_BYTES:
            raise StoreError("%s: %d bytes are more than a small file takes" % (name, len(body)))
        crc = binascii.crc32(body) & 0xFFFFFFFF
        try:
            with self._fs.open("/" + name, "wb") as file:
                file.write(body + crc.to_bytes(4, "little"))
        except OSError as error:
            self.open()
            raise StoreError("%s was not written (error %s)" % (name, error.args[0])) from None
