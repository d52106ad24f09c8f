"""Open a ring of sectors with the firmware's own reader (ledger/ring.py), on a copy in memory."""

import binascii
import struct

from evmeter_tools.firmware import reach
from evmeter_tools.journal.extract import BLOCK_BYTES

reach()

from evmeter.ledger import (  # noqa: E402
    StoreError,
    ring,
    ring_scan,
    sectors,
    small_files,
)

_MAGICS = (ring.MAGIC, small_files.MAGIC)


class _Copy:
    """The block device over a copy of an image; what lies behind its end is blank."""

    def __init__(self, data, blocks):
        self._data = bytearray(data[: blocks * BLOCK_BYTES].ljust(blocks * BLOCK_BYTES, b"\xff"))
        self._blocks = blocks

    def readblocks(self, block, buffer, offset=0):
        at = block * BLOCK_BYTES + offset
        buffer[:] = self._data[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=0):
        at = block * BLOCK_BYTES + offset
        self._data[at : at + len(buffer)] = buffer

    def ioctl(self, operation, argument):
        return self._blocks if operation == 4 else 0


def _blocks(data):
    """(whether there is a header of the ring, size of the store in blocks or None)."""
    flash = _Copy(data, len(data) // BLOCK_BYTES)
    found = False
    for block in range(len(data) // BLOCK_BYTES):
        head = bytearray(16)
        flash.readblocks(block, head)
        magic, _, number, crc = struct.unpack("<4sIII", head)
        if magic in _MAGICS and crc == binascii.crc32(head[:12]):
            found = True
            if magic == small_files.MAGIC:
                return True, number
    return found, None


def is_ring(data):
    """Whether an image holds a ring, or a part of one. The free blocks of a littlefs may hold what
    is left of an older one."""
    named = (data[at + 8:at + 16] for at in (0, BLOCK_BYTES))
    return b"littlefs" not in named and _blocks(data)[0]


def fill(image):
    """Give an `Image` its segments and small files."""
    has = len(image.data) // BLOCK_BYTES
    blocks = _blocks(image.data)[1] or has
    if blocks > has:
        image.faults.append("the image ends after %d of %d blocks: truncated" % (has, blocks))
    store = ring.RingStore(lambda: _Copy(image.data, blocks))
    image.unit, image.tears = store.unit, store.tears
    try:
        store.open()
    except StoreError as error:
        image.faults.append(str(error))
        return
    if store.damaged:
        image.faults.append("%d sectors are damaged: their headers cannot be read"
                            % store.damaged)
    look = ring_scan.Look(_Copy(image.data, blocks))
    for first in store.segments:
        buffer = bytearray(BLOCK_BYTES)
        used = look.used(store._block(first))
        store._sectors.read(store._block(first), buffer, used, sectors.HEAD)
        image.files["/s/%08d" % first] = bytes(buffer[:used])
    for name in ring.NAMES:
        body = store._small._bodies[ring.NAMES.index(name)]
        if body is not None:
            crc = binascii.crc32(body).to_bytes(4, "little")
            image.files["/" + name] = body + crc if body else b""
    image.mounted = True
