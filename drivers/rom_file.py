"""A ROMFS image in a file, as a file system: for a MicroPython that is built without VfsRom.

MicroPython's format (extmod/vfs_rom.c): records of kind, length and contents; both numbers in
groups of 7 bits, the highest first. Bytecode is copied to the heap, as from any other file.
"""

import io

from micropython import const

_MAGIC = b"\xd2\xcd\x31"
_VERBATIM = const(2)
_FOLDER = const(4)
_FILE = const(5)
_HEAD_BYTES = const(96)  # of a record, with its name
_CLOSE = const(4)  # of a stream's ioctl
_BUFFER_SIZE = const(11)
_IMPORT_BYTES = const(249)  # with its header a whole number of the heap's blocks


def _number(data, at):
    """(number at `at`, what is behind it). Raises IndexError."""
    value = 0
    while True:
        byte = data[at]
        at += 1
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at


class _Contents(io.IOBase):
    """One file of the image, to be read from front to back."""

    def __init__(self, file, begin, end):
        self._file = file
        self._at = begin
        self._end = end

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """The image stays open."""

    def readinto(self, buffer):
        view = memoryview(buffer)[: self._end - self._at]
        self._file.seek(self._at)
        got = self._file.readinto(view)
        self._at += got
        return got

    def ioctl(self, request, argument):
        if request == _BUFFER_SIZE:
            return _IMPORT_BYTES
        return 0 if request == _CLOSE else -1


class RomFile:
    """What vfs.mount takes, over the open file `file`. Raises OSError where that is no image, or
    not a whole one."""

    def __init__(self, file):
        self._file = file
        self._head = bytearray(_HEAD_BYTES)
        try:
            self._folders = {"": self._whole()}  # path: where its records begin and end
        except OSError:
            file.close()
            raise

    def _read_head(self, at):
        self._file.seek(at)
        self._file.readinto(self._head)

    def _whole(self):
        size = self._file.seek(0, 2)
        self._read_head(0)
        if size < 4 or self._head[:3] != _MAGIC:
            raise OSError(19)
        try:
            length, at = _number(self._head, 3)
        except IndexError:
            raise OSError(19) from None
        if at + length > size:
            raise OSError(19)
        return at, at + length

    def _entries(self, at, end):
        """(name, whether it is a folder, where its contents begin and end) of a folder's records.
        Raises OSError where they are damaged."""
        head = self._head
        while at < end:
            self._read_head(at)
            try:
                kind, here = _number(head, 0)
                size, here = _number(head, here)
                behind = at + here + size
                if kind in (_FOLDER, _FILE):
                    length, here = _number(head, here)
                    name = bytes(head[here : here + length])
                    here += length
                    if kind == _FILE:
                        kind, here = _number(head, here)
                        size, here = _number(head, here)
                    if kind in (_FOLDER, _VERBATIM):
                        stop = behind if kind == _FOLDER else at + here + size
                        if stop > end:
                            raise OSError(5)
                        yield name, kind == _FOLDER, at + here, stop
            except IndexError:
                raise OSError(5) from None
            at = behind

    def _find(self, path):
        """(whether it is a folder, where its contents begin and end). Raises OSError."""
        path = path.strip("/")
        if path in self._folders:
            return (True,) + self._folders[path]
        parent, _, wanted = path.rpartition("/")
        is_folder, at, behind = self._find(parent)
        if is_folder:
            wanted = wanted.encode()
            for name, is_folder, begin, end in self._entries(at, behind):
                if name == wanted:
                    if is_folder:
                        self._folders[path] = begin, end
                    return is_folder, begin, end
        raise OSError(2)

    def mount(self, readonly, mkfs):
        """Called by vfs.mount."""

    def umount(self):
        """Called by vfs.umount."""
        self._file.close()

    def stat(self, path):
        """As os.stat. Raises OSError."""
        is_folder, begin, end = self._find(path)
        return (0x4000 if is_folder else 0x8000, 0, 0, 0, 0, 0, end - begin, 0, 0, 0)

    def ilistdir(self, path):
        """As os.ilistdir. Raises OSError."""
        is_folder, at, behind = self._find(path)
        if not is_folder:
            raise OSError(20)
        for name, is_folder, begin, end in self._entries(at, behind):
            yield name.decode(), 0x4000 if is_folder else 0x8000, 0, end - begin

    def open(self, path, mode):
        """As open; text comes whole. Raises OSError."""
        if mode not in ("r", "rb", "rt"):
            raise OSError(30)
        is_folder, begin, end = self._find(path)
        if is_folder:
            raise OSError(21)
        if mode == "rb":
            return _Contents(self._file, begin, end)
        text = bytearray(end - begin)
        self._file.seek(begin)
        self._file.readinto(text)
        return io.StringIO(text.decode())
