"""Packages as `evmeter release` makes them, and a device that takes them."""

import asyncio
import hashlib
import json
from binascii import b2a_base64, hexlify

from drivers.rom_slots import RomSlots
from evmeter.ledger import p256
from evmeter.ledger.signer import SPKI_HEAD, _finish
from evmeter.system.update import Updater
from fakes.memory_store import MemoryNvs
from fakes.nor_flash import NorFlash
from fakes.world import Idle

BOARD = "esp32_devkit"
_SECRET = 0x1234567890ABCDEF


def spki(secret=_SECRET):
    x, y = _finish(p256.base_mult(secret, 1))
    return hexlify(SPKI_HEAD + x.to_bytes(32, "big") + y.to_bytes(32, "big")).decode()


def image(size, seed=7):
    made = bytearray(size)
    for index in range(size):
        made[index] = (seed * index + index // 251) & 255
    return bytes(made)


def fields_of(content, **changed):
    fields = {"board": BOARD, "counter": 1, "legal": "ab" * 32, "sha256": hexlify(
        hashlib.sha256(content).digest()).decode(), "size": len(content), "version": "0.2.0"}
    fields.update(changed)
    return fields


def head(fields, secret=_SECRET):
    manifest = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    digest = hashlib.sha256(manifest).digest()
    r, s = _finish(p256.sign(secret, digest, 0x1234567, 1, 1))
    return (b"EVU1" + len(manifest).to_bytes(2, "little") + manifest + r.to_bytes(32, "big")
            + s.to_bytes(32, "big"))


_FLASH = NorFlash(4)  # one for all: a test's heap is small


class Device:
    """A chip that was flashed with `old`, with room for 2 blocks in each half."""

    def __init__(self, old, keys=None, flash=None, nvs=None):
        if flash is None:
            _FLASH.wipe()
        self.flash = flash or _FLASH
        self.nvs = nvs or MemoryNvs()
        self.keys = [spki()] if keys is None else keys
        self.flash.image[: len(old)] = old
        self.boot()

    def boot(self):
        self.slots = RomSlots(self.nvs, self.flash)
        self.slots.choose()
        self.updater = Updater(self.slots, BOARD, self.keys, self.nvs, Idle())

    def runs(self, content):
        """Whether the last boot started that image."""
        at = self.slots.running * self.slots.slot_bytes
        return memoryview(self.flash.image)[at : at + len(content)] == content

    def begin(self, head):
        return asyncio.run(self.updater.begin(b2a_base64(head)))["have"]

    def data(self, at, piece):
        return asyncio.run(self.updater.data(at, b2a_base64(piece)))["have"]

    def send(self, content, piece=1500):
        for at in range(0, len(content), piece):
            self.data(at, content[at : at + piece])

    def activate(self):
        fields = asyncio.run(self.updater.check())
        self.updater.activate()
        return fields
