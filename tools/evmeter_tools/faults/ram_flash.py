"""Flash in memory on which the power can go at any operation, torn in the middle of it."""

BLOCK_BYTES = 4096


class RamFlash:
    """The block device of host_flash.py over a bytearray.

    `cut_at` counts programs and erases down to the one at which the power goes; `tear` says how
    much of that one still happens: 0 nothing, 1 half of it, 2 all but the last byte. After the cut
    nothing is written any more, whatever old file objects still try. `watch(at, data)` is called
    before each operation with what it is going to leave at the image's offset `at`. `rewrites`
    counts programs over bytes that are not blank, which NOR flash and its encryption do not like.
    `fail_at` counts down to an operation that raises OSError(`error`), as do all later ones where
    `for_good`; `done`: it happens all the same, or half of it where `done` is 2. With `reads_fail`
    it is a read that fails, and reads that are counted.
    """

    def __init__(self, blocks=64, image=None):
        self.blocks = blocks
        self.image = bytearray(image or b"\xff" * (blocks * BLOCK_BYTES))
        self.cut_at = None
        self.tear = 0
        self.dead = False
        self.operations = self.reads = 0
        self.erases = 0
        self.rewrites = 0
        self.watch = None
        self.fail_at = None
        self.for_good = self.reads_fail = False
        self.error = 5
        self.done = 0

    def _fails(self):
        if self.fail_at is None:
            return False
        self.fail_at -= 1
        return self.fail_at == -1 or (self.fail_at < -1 and self.for_good)

    def _do(self, at, data):
        """Leave `data` at `at`, or as much of it as the power lasts."""
        if self.dead:
            raise OSError(5)
        self.operations += 1
        if self.watch:
            self.watch(at, data)
        length = len(data)
        if not self.reads_fail and self._fails():
            length = (0, length, length // 2)[self.done]
            self.image[at : at + length] = data[:length]
            raise OSError(self.error)
        if self.cut_at is not None:
            self.dead = self.cut_at == 0
            self.cut_at -= 1
            if self.dead:
                length = (0, length // 2, length - 1)[self.tear]
        self.image[at : at + length] = data[:length]
        if self.dead:
            raise OSError(5)

    def readblocks(self, block, buffer, offset=0):
        """As MicroPython's block device protocol."""
        if self.dead:
            raise OSError(5)
        self.reads += 1
        if self.reads_fail and self._fails():
            raise OSError(self.error)
        at = block * BLOCK_BYTES + offset
        buffer[:] = self.image[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=None):
        """Program: bits only become 0. Without an offset the block is erased before."""
        if offset is None:
            self._erase(block)
            offset = 0
        at = block * BLOCK_BYTES + offset
        self.rewrites += self.image[at : at + len(buffer)].strip(b"\xff") != b""
        held = (int.from_bytes(self.image[at : at + len(buffer)], "big")
                & int.from_bytes(buffer, "big"))
        self._do(at, held.to_bytes(len(buffer), "big"))

    def _erase(self, block):
        self.erases += 1
        self._do(block * BLOCK_BYTES, b"\xff" * BLOCK_BYTES)

    def ioctl(self, operation, argument):
        """As MicroPython's block device protocol."""
        if operation == 4:
            return self.blocks
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            self._erase(argument)
        return 0
