"""Flash on a file: 4 KiB blocks with the manners of a NOR chip, littlefs on top.

Erasing sets all bits of a block, programming only clears bits. Each operation is one unbuffered
write to the file, so that the death of the process is a power cut between two operations.
"""

import os

from micropython import const

try:
    from vfs import VfsLfs2
except ImportError:
    VfsLfs2 = None

BLOCK_BYTES = const(4096)
_PAGE = const(32)  # read and program size of littlefs in MicroPython
_LOOKAHEAD = const(32)
_PIECE = const(128)
_BLANK = b"\xff" * BLOCK_BYTES


class FlashFile:
    """A block device with the extended interface of MicroPython's vfs on the file `path`.

    A missing file is made, blank. `erases` and `programs` count operations.
    """

    def __init__(self, path, blocks):
        self.blocks = blocks
        self.erases = 0
        self.programs = 0
        try:
            self._file = open(path, "r+b", buffering=0)
        except OSError:
            with open(path + ".new", "wb") as file:
                for _ in range(blocks):
                    file.write(_BLANK)
            os.rename(path + ".new", path)  # whole or not at all
            self._file = open(path, "r+b", buffering=0)
        if os.stat(path)[6] != blocks * BLOCK_BYTES:
            raise OSError(22, "%s is not %d blocks long" % (path, blocks))
        self._work = bytearray(BLOCK_BYTES)

    def readblocks(self, block, buffer, offset=0):
        self._file.seek(block * BLOCK_BYTES + offset)
        self._file.readinto(buffer)

    def writeblocks(self, block, buffer, offset=None):
        if offset is None:
            for index in range(len(buffer) // BLOCK_BYTES):
                self.erase(block + index)
            offset = 0
        length = len(buffer)
        work = memoryview(self._work)[:length]
        at = block * BLOCK_BYTES + offset
        self._file.seek(at)
        self._file.readinto(work)
        view = memoryview(buffer)
        for begin in range(0, length, _PIECE):  # a chip takes no heap for this
            piece, wanted = work[begin : begin + _PIECE], view[begin : begin + _PIECE]
            held = int.from_bytes(piece, "big") & int.from_bytes(wanted, "big")
            piece[:] = held.to_bytes(len(piece), "big")
        self._file.seek(at)
        self._file.write(work)
        self.programs += 1

    def erase(self, block):
        self._file.seek(block * BLOCK_BYTES)
        self._file.write(_BLANK)
        self.erases += 1

    def ioctl(self, operation, argument):
        if operation == 4:
            return self.blocks
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            self.erase(argument)
        return 0

    def close(self):
        self._file.close()


def mount(device):
    """The littlefs on `device`, with VfsLfs2's methods. Raises OSError on a blank or damaged one;
    never formats."""
    if VfsLfs2:
        return VfsLfs2(device, readsize=_PAGE, progsize=_PAGE, lookahead=_LOOKAHEAD, mtime=False)
    from host_littlefs import mount as mount_cpython

    return mount_cpython(device, _PAGE, _LOOKAHEAD)


def mkfs(device):
    """Make an empty littlefs on `device`."""
    if VfsLfs2:
        VfsLfs2.mkfs(device, readsize=_PAGE, progsize=_PAGE, lookahead=_LOOKAHEAD)
        return
    from host_littlefs import mkfs as mkfs_cpython

    mkfs_cpython(device, _PAGE, _LOOKAHEAD)
