"""MicroPython's VfsLfs2 for CPython, over the same littlefs in the package littlefs-python."""

import contextlib
import errno

from littlefs import FileHandle, LittleFS, LittleFSError, UserContext, lfs

_FOLDER = 2  # littlefs' LFS_TYPE_DIR
_APPEND = lfs.LFSFileFlag.wronly | lfs.LFSFileFlag.creat | lfs.LFSFileFlag.append


def _call(function, *args, **options):
    """Call into littlefs-python, whose exceptions do not all carry an error number."""
    try:
        return function(*args, **options)
    except FileNotFoundError:
        raise OSError(errno.ENOENT) from None
    except FileExistsError:
        raise OSError(errno.EEXIST) from None
    except IsADirectoryError:
        raise OSError(errno.EISDIR) from None
    except LittleFSError as error:
        raise OSError(abs(error.code), str(error)) from None


class _Context(UserContext):
    """Hands littlefs' block operations to a MicroPython block device."""

    def __init__(self, device):
        super().__init__(buffsize=0)
        self._device = device

    def _do(self, function, *args):
        # an exception must not pass through littlefs' C code: it takes an error number
        try:
            function(*args)
        except OSError as error:
            return -error.args[0]
        return 0

    def read(self, cfg, block, off, size):
        data = bytearray(size)
        self._do(self._device.readblocks, block, data, off)
        return data

    def prog(self, cfg, block, off, data):
        return self._do(self._device.writeblocks, block, bytes(data), off)

    def erase(self, cfg, block):
        return self._do(self._device.ioctl, 6, block)

    def sync(self, cfg):
        return 0


class File:
    """An open file; a close that fails is not tried again by the garbage collector, which littlefs
    would answer with an assertion. One that nobody closed is closed as MicroPython does it."""

    def __init__(self, filesystem, handle):
        self._lfs = filesystem  # must outlive the handle, which does not hold it
        self._handle = handle
        self._close_handle = handle.close
        handle.close = lambda: None  # by its own finalizer: littlefs may be gone by then
        self.read = handle.read
        self.readinto = handle.readinto
        self.seek = handle.seek

    def write(self, data):
        return _call(self._handle.write, bytes(data))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Write what is left. Raises OSError where the flash does not take it."""
        close, self._close_handle = self._close_handle, None
        if close:
            _call(close)

    def __del__(self):
        with contextlib.suppress(OSError):
            self.close()


class Filesystem:
    """The methods of VfsLfs2 that the firmware uses; errors are OSError with a number."""

    def __init__(self, filesystem):
        self._lfs = filesystem

    def open(self, path, mode):
        if mode != "ab":
            return File(self._lfs, _call(self._lfs.open, path, mode, buffering=0))
        # the package's own "ab" does not make the file, VfsLfs2's does
        core = self._lfs.fs
        return File(self._lfs, FileHandle(core, _call(lfs.file_open, core, path, _APPEND)))

    def ilistdir(self, path):
        return [(entry.name, 0x4000 if entry.type == _FOLDER else 0x8000, 0, entry.size)
                for entry in _call(lambda: list(self._lfs.scandir(path)))]

    def remove(self, path):
        _call(self._lfs.remove, path)

    def rename(self, old, new):
        _call(self._lfs.rename, old, new)

    def mkdir(self, path):
        _call(self._lfs.mkdir, path)

    def stat(self, path):
        found = _call(self._lfs.stat, path)
        kind = 0x4000 if found.type == _FOLDER else 0x8000
        return (kind, 0, 0, 0, 0, 0, found.size, 0, 0, 0)

    def statvfs(self, path):
        info = self._lfs.fs_stat()
        free = info.block_count - self._lfs.used_block_count
        return (info.block_size, info.block_size, info.block_count, free, free, 0, 0, 0, 0, 255)


def _littlefs(device, page, lookahead, *, should_mount):
    return LittleFS(
        context=_Context(device), mount=should_mount, block_size=device.ioctl(5, 0),
        block_count=device.ioctl(4, 0), read_size=page, prog_size=page, cache_size=4 * page,
        lookahead_size=lookahead, block_cycles=100)


def mount(device, page, lookahead):
    """The littlefs on `device`. Raises OSError on a blank or damaged one."""
    found = _littlefs(device, page, lookahead, should_mount=False)
    _call(found.mount)
    return Filesystem(found)


def mkfs(device, page, lookahead):
    """Make an empty littlefs on `device`. Raises OSError."""
    _call(_littlefs(device, page, lookahead, should_mount=False).format)
