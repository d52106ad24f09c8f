"""Flash in memory that keeps to the rules of a NOR chip and says who breaks them."""

BLOCK_BYTES = 4096
_BLANK = b"\xff" * BLOCK_BYTES  # once: the heap is small


class NorFlash:
    """A block device with esp32.Partition's methods. `broken` lists programs that are not aligned
    to 16 bytes or go over bytes that were programmed before; `fail` counts operations down to one
    that raises `error`, and all later ones too where `for_good`."""

    def __init__(self, blocks):
        self._make(blocks)
        self.wipe(blocks)

    def _make(self, blocks):
        self.image = bytearray(blocks * BLOCK_BYTES)
        whole = memoryview(self.image)
        self.sectors = [whole[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
                        for block in range(blocks)]

    def wipe(self, blocks=None):
        """A new chip in the same memory."""
        self.blocks = blocks or self.blocks
        for sector in self.sectors:
            sector[:] = _BLANK
        self.broken = []
        self.erases = self.programs = self.program_bytes = 0
        self.fail = None
        self.error = 5
        self.for_good = False
        self.done_all_the_same = False  # the operation that fails happens

    def _trouble(self):
        if self.fail is None:
            return False
        self.fail -= 1
        if self.fail == -1 or (self.fail < -1 and self.for_good):
            return True
        return False

    def readblocks(self, block, buffer, offset=0):
        buffer[:] = memoryview(self.sectors[block])[offset : offset + len(buffer)]

    def writeblocks(self, block, buffer, offset=None):
        if offset is None:
            self.ioctl(6, block)
            offset = 0
        trouble = self._trouble()
        if trouble and not self.done_all_the_same:
            raise OSError(self.error)
        sector = self.sectors[block]
        length = len(buffer)
        blank = sector[offset : offset + length] == b"\xff" * length
        if offset % 16 or length % 16 or offset + length > BLOCK_BYTES or not blank:
            self.broken.append((block, offset, length))
        for index in range(length):
            sector[offset + index] &= buffer[index]
        self.programs += 1
        self.program_bytes += length
        if trouble:
            raise OSError(self.error)

    def ioctl(self, operation, argument):
        if operation == 4:
            return self.blocks
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            if self._trouble():
                raise OSError(self.error)
            self.sectors[argument][:] = _BLANK
            self.erases += 1
        return 0


class NorSectors(NorFlash):
    """The same in pieces, `sectors`, where a small heap has none of the whole length: no
    `image`."""

    def _make(self, blocks):
        self.sectors = [bytearray(BLOCK_BYTES) for _ in range(blocks)]
