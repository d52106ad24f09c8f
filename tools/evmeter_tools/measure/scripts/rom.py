# Imports a firmware as a chip does: from a ROMFS mapped into memory that is no part of the heap,
# or from plain files.
import os
import sys

_FOLDER = 0x4000
# what a device has loaded once it runs, by what is imported at the start or by configuration
_LOADED = ("evmeter.assembly", "evmeter.session.recovery", "evmeter.ledger.ring",
           "drivers.modbus_meter", "drivers.modbus_rtu")


def mount(path):
    """Import from the ROMFS image, or the folder, `path` before anywhere else."""
    mode, size = os.stat(path)[0], os.stat(path)[6]
    if not mode & _FOLDER:
        import ffi
        import uctypes
        import vfs

        libc = ffi.open("libc.so.6")
        fd = libc.func("i", "open", "si")(path, 0)
        address = libc.func("p", "mmap", "pliiil")(None, size, 1, 2, fd, 0)  # to read, private
        vfs.mount(vfs.VfsRom(uctypes.bytearray_at(address, size)), "/rom")
        path = "/rom"
    sys.path.insert(0, path)


def load(*names):
    """Import what a device has loaded once it runs, and the modules `names`."""
    for name in _LOADED + names:
        __import__(name)
    from evmeter.system.forget import forget

    forget("evmeter", "assembly")
