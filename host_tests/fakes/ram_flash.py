"""Flash in memory on which the power can go at any operation, torn in the middle of it."""

BLOCK_BYTES = 4096


class RamFlash:
    """The block device of host_flash.py over a bytearray.

    `cut_at` counts programs and erases down to the one at which the power goes; `tear` says how
    much of that one still happens: 0 nothing, 1 half of it, 2 all but the last byte. After the cut
    nothing is written any more, whatever old file objects still try.
    """

    def __init__(self, blocks=64, image=None):
        self.blocks = blocks
        self.image = bytearray(image or b"\xff" * (blocks * BLOCK_BYTES))
        self.cut_at = None
        self.tear = 0
        self.dead = False
        self.operations = 0
        self.erases = 0
        self.on_cut = None

    def _due(self):
        """Whether this operation happens whole."""
        if self.dead:
            raise OSError(5)
        self.operations += 1
        if self.cut_at is None:
            return True
        if self.cut_at == 0:
            self.dead = True
            if self.on_cut:
                self.on_cut()
            return False
        self.cut_at -= 1
        return True

    def _share(self, length):
        return (0, length // 2, length - 1)[self.tear]

    def readblocks(self, block, buffer, offset=0):
        if self.dead:
            raise OSError(5)
        at = block * BLOCK_BYTES + offset
        buffer[:] = self.image[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=None):
        if offset is None:
            self._erase(block)
            offset = 0
        whole = self._due()
        length = len(buffer) if whole else self._share(len(buffer))
        at = block * BLOCK_BYTES + offset
        for index in range(length):
            self.image[at + index] &= buffer[index]
        if not whole:
            raise OSError(5)

    def _erase(self, block):
        whole = self._due()
        length = BLOCK_BYTES if whole else self._share(BLOCK_BYTES)
        at = block * BLOCK_BYTES
        self.image[at : at + length] = b"\xff" * length
        self.erases += 1
        if not whole:
            raise OSError(5)

    def ioctl(self, operation, argument):
        if operation == 4:
            return self.blocks
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            self._erase(argument)
        return 0
