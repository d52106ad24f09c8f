"""Starts the firmware from the run folder's rom.img, as boot.py and main.py do on a chip."""

import os
import sys

import vfs
from rom_slots import RomSlots, mount

from host_flash import BLOCK_BYTES, FlashFile
from host_nvs import NvsFile

folder = os.getenv("EVMETER_HOST_DIR")
with open(folder + "/rom.img", "rb") as file:
    rom = file.read()
mount(RomSlots(NvsFile(folder + "/nvs.json"),
               FlashFile(folder + "/rom.img", len(rom) // BLOCK_BYTES)), rom, vfs, sys.path)
with open(sys.argv[1]) as file:
    program = file.read()
exec(program, {"__name__": "__main__"})  # noqa: S102
