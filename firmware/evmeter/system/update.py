"""A new firmware, from the backend in pieces: checked, written beside the running one, tried.

A package, as `evmeter release` makes it:

    "EVU1" | length of the manifest, 2 bytes, little-endian | manifest | signature | image

The manifest is JSON: `board`, `version`, `counter`, `size` and `sha256` of the image, `legal` of
its legally relevant part (system/legal.py). The signature is ECDSA's (P-256, SHA-256), r and s in
32 bytes each, by a key that the configuration names. The counter has to be higher than that of the
firmware that is trusted: there is no way back to an older one. Head and pieces come in commands,
as base64 (system/operations.py).

The image is tried once it is whole, has its hash, and no session is open. It confirms itself when
meter, pilot, journal and key have been well for a minute and the backend's broker was reached, or
could not be for 10 minutes; else the one before is started again (drivers/rom_slots.py). It lies
in the other half of a partition, or in the other file of two (drivers/file_slots.py).
"""

import asyncio
import hashlib
import json
from binascii import a2b_base64, hexlify

from micropython import const

from evmeter.ledger import p256
from evmeter.ledger.signer import key_id, point
from evmeter.ledger.signer import run as sliced

_MAGIC = b"EVU1"
_SIGNATURE = const(64)
_BLOCK = const(4096)
_MOST_PIECE = const(2048)
_COUNTER = "upd_ctr"  # of the firmware that is trusted
_NEW = "upd_new"  # of the one that is on trial
_FIELDS = ("board", "counter", "legal", "sha256", "size", "version")
_WELL_MS = const(60000)
_ALONE_MS = const(600000)
_LONGEST_TRIAL_MS = const(1200000)
_HASH_STEP = const(512)


class UpdateError(ValueError):
    """The update is refused; the text says why and what is allowed."""


def stored(nvs, key):
    """A counter from the second store, 0 where there is none."""
    try:
        return nvs.get_i32(key)
    except OSError:
        return 0


def _bytes(text):
    """What base64 stands for. Raises UpdateError."""
    try:
        return a2b_base64(text)
    except (ValueError, TypeError, AttributeError):
        raise UpdateError("head and data are base64") from None


def read_head(head):
    """(manifest as bytes, its fields, r, s) of a package's head, all before the image. Raises
    UpdateError."""
    if bytes(head[:4]) != _MAGIC:
        raise UpdateError("it is no package of evmeter's")
    at = 6 + int.from_bytes(head[4:6], "little")
    if len(head) != at + _SIGNATURE:
        raise UpdateError("the head has %d bytes; allowed: %d" % (len(head), at + _SIGNATURE))
    manifest = bytes(head[6:at])
    try:
        fields = json.loads(manifest)
        names = sorted(fields)
    except (ValueError, TypeError, RuntimeError, MemoryError):
        names = ()
    if tuple(names) != _FIELDS or not isinstance(fields, dict):
        raise UpdateError("the manifest must have %s" % ", ".join(_FIELDS))
    for name in _FIELDS:
        if type(fields[name]) is not (int if name in ("counter", "size") else str):
            raise UpdateError("%s is %r" % (name, fields[name]))
    r, s = [int.from_bytes(head[begin : begin + 32], "big") for begin in (at, at + 32)]
    return manifest, fields, r, s


class Updater:
    """`slots` as RomSlots or FileSlots; `board` the board's name; `keys` whose signatures count
    (SubjectPublicKeyInfo in hex); `quiet` as in ledger.py. Methods raise UpdateError where the
    update is refused, OSError where the flash fails; nothing that runs is changed by either."""

    def __init__(self, slots, board, keys, nvs, quiet):
        self._slots = slots
        self._board = board
        self._keys = keys
        self._nvs = nvs
        self._quiet = quiet
        self._block = None
        self.fields = None  # of the manifest in work
        self.have = 0  # bytes of its image that came

    async def begin(self, head):
        """Take a package's head (base64); returns what to answer: how many bytes of its image are
        there already, and the counter of the firmware that is trusted."""
        manifest, fields, r, s = read_head(_bytes(head))
        if fields["board"] != self._board:
            raise UpdateError("board is %s; this is %s" % (fields["board"], self._board))
        if not 0 < fields["size"] <= self._slots.slot_bytes:
            raise UpdateError("size is %d; allowed: 1 to %d"
                              % (fields["size"], self._slots.slot_bytes))
        least = stored(self._nvs, _COUNTER) + 1
        if not least <= fields["counter"] < 1 << 30:
            raise UpdateError("counter is %d; allowed: %d to %d"
                              % (fields["counter"], least, (1 << 30) - 1))
        if self._slots.on_trial:
            raise UpdateError("the running firmware is on trial itself")
        await self._verify(hashlib.sha256(manifest).digest(), r, s)
        if self.fields != fields:
            self.fields = fields
            self.have = 0
        if self._block is None:
            self._block = bytearray(_BLOCK)
        return {"have": self.have, "counter": least - 1}

    async def _verify(self, digest, r, s):
        for spki in self._keys:
            x, y = point(spki)
            if await sliced(p256.verify(x, y, digest, r, s)):
                return
        names = [key_id(spki) for spki in self._keys]
        raise UpdateError("the manifest is not signed by %s"
                          % (" or ".join(names) or "anyone: update.keys is empty"))

    async def data(self, at, piece):
        """Take a piece of the image (base64), which begins at byte `at`; returns what to answer,
        how many bytes are there. What is there already is passed over, so that a piece may come
        twice."""
        if not self.fields:
            raise UpdateError("no update was begun")
        piece = _bytes(piece)
        if type(at) is not int:
            raise UpdateError("at is %r; allowed: a whole number" % (at,))
        end = at + len(piece)
        if not 0 <= at <= self.have or not at < end <= self.fields["size"] \
                or len(piece) > _MOST_PIECE:
            raise UpdateError("%d bytes at %d; allowed: up to %d bytes at %d"
                              % (len(piece), at, _MOST_PIECE, self.have))
        size = self.fields["size"]
        for value in memoryview(piece)[self.have - at :]:
            self._block[self.have % _BLOCK] = value
            self.have += 1
            if self.have % _BLOCK == 0 or self.have == size:
                await self._write_block()
        return {"have": self.have}

    async def _write_block(self):
        number = (self.have - 1) // _BLOCK
        try:
            async with self._quiet:
                self._slots.write(number, self._block)
                if self.have == self.fields["size"]:
                    self._slots.finish()
        except OSError:
            self.have = 0  # it may come again
            raise

    async def check(self):
        """Whether the image is whole and the one of its manifest; returns the manifest's fields.
        """
        fields = self.fields
        if not fields or self.have != fields["size"]:
            raise UpdateError("the image is not whole: %d bytes of %d"
                              % (self.have, fields["size"] if fields else 0))
        if hexlify(await self._hash(fields["size"])).decode() != fields["sha256"]:
            self.have = 0
            raise UpdateError("the image has another hash than its manifest says")
        return fields

    def activate(self):
        """Have the next boot try what `check` has found good. To be called while no Modbus
        transaction runs, right before the restart."""
        self._nvs.set_i32(_NEW, self.fields["counter"])
        self.fields = None  # from here on "the other one" is what runs, until the restart
        self._slots.try_other()

    async def _hash(self, size):
        found = hashlib.sha256()
        buffer = bytearray(_HASH_STEP)
        for at in range(0, size, _HASH_STEP):
            self._slots.read(1 - self._slots.running, at, buffer)
            found.update(memoryview(buffer)[: min(_HASH_STEP, size - at)])
            await asyncio.sleep_ms(0)
        return found.digest()


def failed(nvs):
    """The counter of a firmware that was on trial and given up, 0 where there is none; it is told
    once. To be called where none is on trial."""
    new = stored(nvs, _NEW)
    if new:
        nvs.set_i32(_NEW, 0)
        nvs.commit()
    return new if new > stored(nvs, _COUNTER) else 0


class Probation:
    """The first minutes of a firmware that is on trial. `well()` says whether meter, pilot,
    journal and key are; `online()` whether the broker takes the device."""

    def __init__(self, slots, nvs, clock, well, online):
        self._slots = slots
        self._nvs = nvs
        self._clock = clock
        self._well = well
        self._online = online
        self._since_ms = None
        self._seen = False

    def check(self):
        """To be called every second, while no Modbus transaction runs: "" while it lasts,
        "confirmed" or "failed" once it is over. A failed one is followed by a restart."""
        now_ms = self._clock.mono_ms()
        self._seen = self._seen or self._online()
        if not self._well():
            self._since_ms = None
        elif self._since_ms is None:
            self._since_ms = now_ms
        if self._since_ms is not None and now_ms - self._since_ms >= _WELL_MS and (
                self._seen or now_ms >= _ALONE_MS):
            # the counter first: a cut between the two leaves a trial that confirms itself again
            self._nvs.set_i32(_COUNTER, stored(self._nvs, _NEW))
            self._slots.trust(self._slots.running)
            return "confirmed"
        if now_ms >= _LONGEST_TRIAL_MS:
            self._slots.give_up()
            return "failed"
        return ""
