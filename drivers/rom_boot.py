"""Mounts the firmware that is to be started. Lies beside boot.py in the chip's file system, where
no update replaces it."""

import sys

import vfs
from esp32 import NVS, Partition
from machine import WDT
from micropython import const
from rom_slots import RomSlots, mount

_TRIAL_MS = const(120000)


def start():
    """Nothing happens without the partition `romfs`: then the firmware lies here as files. One on
    trial is reset where it does not come to feed the watchdog itself. Raises OSError."""
    found = Partition.find(Partition.TYPE_DATA, label="romfs")
    if not found:
        return
    if not hasattr(vfs, "VfsRom"):
        print("evmeter: this MicroPython is built without VfsRom, the firmware in the partition "
              "romfs cannot be started; flash one that 'evmeter firmware' has built")
        return
    slots = RomSlots(NVS("evmeter"), found[0])
    mount(slots, vfs.rom_ioctl(2, 0), vfs, sys.path)
    if slots.on_trial:
        WDT(timeout=_TRIAL_MS)
