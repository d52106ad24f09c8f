"""Mounts the firmware that is to be started. Lies beside boot.py in the chip's file system, where
no update replaces it."""

import sys

import vfs
from esp32 import NVS, Partition
from machine import WDT
from micropython import const

_TRIAL_MS = const(120000)
_OWN = ("rom_boot", "rom_slots", "file_slots")  # what nobody needs once it is mounted


def start():
    """Mount it from the partition `romfs`, or from files beside boot.py; nothing happens where
    there is neither. One on trial is reset where it does not come to feed the watchdog itself.
    Raises OSError."""
    nvs = NVS("evmeter")
    found = Partition.find(Partition.TYPE_DATA, label="romfs")
    if found and not hasattr(vfs, "VfsRom"):
        print("evmeter: this MicroPython is built without VfsRom, the firmware in the partition "
              "romfs cannot be started; flash one that 'evmeter firmware' has built")
    elif found:
        from rom_slots import RomSlots

        slots = RomSlots(nvs, found[0])
        rom, size = memoryview(vfs.rom_ioctl(2, 0)), slots.slot_bytes
        _mount(slots, lambda slot: vfs.VfsRom(rom[slot * size : (slot + 1) * size]))
    else:
        from file_slots import FileSlots

        slots = FileSlots(nvs)
        if slots.there():
            from rom_file import RomFile

            _mount(slots, lambda slot: RomFile(slots.open(slot)))
    for name in _OWN:
        sys.modules.pop(name, None)


def _mount(slots, image):
    from rom_slots import mount

    mount(slots, image, vfs, sys.path)
    if slots.on_trial:
        WDT(timeout=_TRIAL_MS)
