"""Starts the firmware from the run folder, as boot.py and main.py do on a chip: from rom.img, the
partition `romfs`, or else from the files on the littlefs vfs.img, which then is at /flash."""

import os
import sys

import vfs
from rom_slots import RomSlots, mount

from host_flash import BLOCK_BYTES, FlashFile
from host_flash import mount as littlefs
from host_nvs import NvsFile

folder = os.getenv("EVMETER_HOST_DIR")
nvs = NvsFile(folder + "/nvs.json")
name = "rom.img" if "rom.img" in os.listdir(folder) else "vfs.img"
flash = FlashFile(folder + "/" + name, os.stat(folder + "/" + name)[6] // BLOCK_BYTES)
if name == "rom.img":
    with open(folder + "/rom.img", "rb") as file:
        rom = memoryview(file.read())
    slots = RomSlots(nvs, flash)
    size = slots.slot_bytes
    mount(slots, lambda slot: vfs.VfsRom(rom[slot * size : (slot + 1) * size]), vfs, sys.path)
else:
    from file_slots import FileSlots
    from rom_file import RomFile

    vfs.mount(littlefs(flash), "/flash")
    slots = FileSlots(nvs, "/flash")
    mount(slots, lambda slot: RomFile(slots.open(slot)), vfs, sys.path)
with open(sys.argv[1]) as file:
    program = file.read()
exec(program, {"__name__": "__main__"})  # noqa: S102
