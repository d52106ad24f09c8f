"""The files of a littlefs image, as a program of its own: `python -m ...extract IMAGE OFFSET`.

littlefs is C code that may abort or run in circles on a damaged image; here that ends one child
process. The image is opened for reading, and the block device refuses every program and erase.
Prints one JSON object: "files" (path -> base64), "unreadable" (path -> reason), "blocks" (as the
superblock has it), "beyond" (whether blocks behind the image's end were asked for), or "error".
"""

import base64
import json
import mmap
import sys

from littlefs import LittleFS, LittleFSError, UserContext

BLOCK_BYTES = 4096
_PAGE = 32  # as boards/host/host_flash.py mounts it
_MOST_BYTES = 1 << 20  # of one file; a segment has at most 4,096
_IO_ERROR = -5


class _Image(UserContext):
    """A block device over bytes; what lies behind their end reads as blank flash."""

    def __init__(self, data, start):
        super().__init__(buffsize=0)
        self._data = data
        self._start = start
        self.beyond = False

    def read(self, cfg, block, off, size):
        at = self._start + block * BLOCK_BYTES + off
        piece = self._data[at : at + size]
        self.beyond |= len(piece) < size
        return bytearray(piece.ljust(size, b"\xff"))

    def prog(self, cfg, block, off, data):
        return _IO_ERROR

    def erase(self, cfg, block):
        return _IO_ERROR

    def sync(self, cfg):
        return 0


def _walk(filesystem, folder, files, unreadable, depth=0):
    for entry in list(filesystem.scandir(folder or "/")):
        path = "%s/%s" % (folder, entry.name)
        if entry.type == 2:
            if depth < 4:
                _walk(filesystem, path, files, unreadable, depth + 1)
            continue
        try:
            if entry.size > _MOST_BYTES:
                raise OSError("%d bytes long, which no file of a journal is" % entry.size)
            with filesystem.open(path, "rb") as file:
                files[path] = base64.b64encode(file.read()).decode()
        except (OSError, LittleFSError) as error:
            unreadable[path] = str(error)


def extract(path, start):
    """What a littlefs that begins at byte `start` of the file `path` holds, as a dict."""
    with (open(path, "rb") as file,
          mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data):
        context = _Image(data, start)
        files, unreadable = {}, {}
        found = {"files": files, "unreadable": unreadable}
        try:
            # block_count 0: as many as the superblock says
            filesystem = LittleFS(
                context=context, mount=True, block_size=BLOCK_BYTES, block_count=0,
                read_size=_PAGE, prog_size=_PAGE, cache_size=4 * _PAGE, lookahead_size=_PAGE)
            found["blocks"] = filesystem.fs_stat().block_count
            _walk(filesystem, "", files, unreadable)
        except (OSError, LittleFSError, UnicodeDecodeError) as error:
            found["error"] = str(error)
        found["beyond"] = context.beyond
        return found


if __name__ == "__main__":
    print(json.dumps(extract(sys.argv[1], int(sys.argv[2]))))
