"""Flash in memory that keeps to the rules of a NOR chip and says who breaks them."""

BLOCK_BYTES = 4096
_BLANK = b"\xff" * BLOCK_BYTES  # once: the heap is small


class NorFlash:
    """A block device with esp32.Partition's methods. `broken` lists programs that are not aligned
    to 16 bytes or go over bytes that were programmed before; `fail` counts operations down to one
    that raises `error`, and all later ones too where `for_good`."""

    def __init__(self, blocks):
        self.image = bytearray(blocks * BLOCK_BYTES)
        self.wipe(blocks)

    def wipe(self, blocks=None):
        """A new chip in the same memory."""
        self.blocks = blocks or self.blocks
        for at in range(0, len(self.image), BLOCK_BYTES):
            self.image[at : at + BLOCK_BYTES] = _BLANK
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
        at = block * BLOCK_BYTES + offset
        buffer[:] = memoryview(self.image)[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=None):
        if offset is None:
            self.ioctl(6, block)
            offset = 0
        trouble = self._trouble()
        if trouble and not self.done_all_the_same:
            raise OSError(self.error)
        at = block * BLOCK_BYTES + offset
        length = len(buffer)
        blank = self.image[at : at + length] == b"\xff" * length
        if offset % 16 or length % 16 or offset + length > BLOCK_BYTES or not blank:
            self.broken.append((block, offset, length))
        for index in range(length):
            self.image[at + index] &= buffer[index]
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
            at = argument * BLOCK_BYTES
            self.image[at : at + BLOCK_BYTES] = _BLANK
            self.erases += 1
        return 0
