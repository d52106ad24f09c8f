"""Two images of the firmware as files, a.romfs and b.romfs, on the chip's own littlefs: for a
MicroPython that is built without VfsRom (rom_file.py reads them).

One file each, as 119 files of bytecode take 153 blocks of 4 KiB, an image of them 56: two sets of
them would not fit beside a journal of 1.4 MiB on 4 MiB of flash.
"""

import os

from micropython import const

try:
    from drivers.rom_slots import Slots
except ImportError:
    from rom_slots import Slots  # beside boot.py: no firmware is there yet

_BLOCK = const(4096)
_SPARE_BLOCKS = const(8)  # for the configuration, three times, and for littlefs itself
_ENOENT = const(2)


class FileSlots(Slots):
    """In the folder `folder` of `files`, which has remove, stat and statvfs as `os`; `opened` as
    `open`."""

    def __init__(self, nvs, folder="", files=os, opened=open):
        super().__init__(nvs)
        self._folder = folder
        self._files = files
        self._open = opened
        self._file = None  # that is being written
        self._written = 0  # bytes of it

    def open(self, slot):
        """The file of image `slot`. Raises OSError."""
        return self._open(self._path(slot), "rb")

    def _path(self, slot):
        return "%s/%s.romfs" % (self._folder, "ab"[slot])

    def _size(self, slot):
        try:
            return self._files.stat(self._path(slot))[6]
        except OSError:
            return 0

    def there(self):
        """Whether there is an image at all."""
        return bool(self._size(0) or self._size(1))

    @property
    def slot_bytes(self):
        """Room for one image: what is free, and what its forerunner gives back."""
        free = self._files.statvfs(self._folder or "/")[3] - _SPARE_BLOCKS
        # what is being written has no size yet, and is not free any more
        held = self._written if self._file else self._size(1 - self.running)
        return free * _BLOCK + held

    def write(self, block, data):
        """Write block `block` of the image that does not run: 4,096 bytes; one after the other,
        the first replaces what is there. An erase of flash, seldom two, takes up to 400 ms each.
        Raises OSError: then it begins with block 0 again."""
        if block == 0:
            self.finish()
            self._remove(1 - self.running)
            self._file = self._open(self._path(1 - self.running), "wb")
            self._written = 0
        if self._file is None or self._written != block * _BLOCK:
            raise OSError(22)
        try:
            self._file.write(data)
        except OSError:
            self.finish()
            raise
        self._written += _BLOCK

    def finish(self):
        """All blocks were written. Before this, a cut leaves an empty file. Raises OSError."""
        file, self._file = self._file, None
        if file:
            file.close()

    def _remove(self, slot):
        # first: there is no room for a third image
        try:
            self._files.remove(self._path(slot))
        except OSError as error:
            if error.args[0] != _ENOENT:
                raise

    def read(self, slot, at, buffer):
        """Fill `buffer` from byte `at` of image `slot`. Raises OSError."""
        with self.open(slot) as file:
            file.seek(at)
            if file.readinto(buffer) != len(buffer):
                raise OSError(5)
