"""Campaigns `update` and `update-files`: the power goes at every operation of a download, its
activation and the first minutes of the new firmware, or the flash refuses one, and hostile
packages come. The next boot must start the old firmware or the new one, whole, and never one that
was not to be taken. The two images lie in a partition, or in files of a littlefs."""

import asyncio
import random
from base64 import b64encode

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mpremote.romfs import VfsRomWriter

import host_flash
from drivers.file_slots import FileSlots
from drivers.rom_file import RomFile
from drivers.rom_slots import RomSlots, mount
from evmeter.system.update import Probation, UpdateError, Updater
from evmeter_tools.device import package as packages
from evmeter_tools.faults.ram_flash import RamFlash
from evmeter_tools.faults.result import Result

_BOARD = "esp32_devkit"
_LEGAL = "00" * 32  # what is packed here is no image
_BLOCKS = 12  # two halves of 24 KiB
_FILE_BLOCKS = 28
_CONFIG = b'{"id": "demo-0001"}'
_TEARS = 3
_DAMAGES = 5
_TOLD = ("cut", "cut in half", "cut at its end", "refused")
_ENOUGH = 50  # violations


class _Nvs:
    """The second store. With `ops`, the list of what is still done before the power goes, it dies
    together with the flash."""

    def __init__(self, flash, values):
        self._flash = flash
        self.values = dict(values)

    def get_i32(self, key):
        if key not in self.values:
            raise OSError(0x1102)
        return self.values[key]

    def set_i32(self, key, value):
        """Whole or not at all; it counts as an operation of the flash."""
        flash = self._flash
        if flash.dead:
            raise OSError(5)
        flash.operations += 1
        if flash.cut_at is not None:
            flash.dead = flash.cut_at == 0
            flash.cut_at -= 1
            if flash.dead:
                raise OSError(5)
        self.values[key] = value

    def commit(self):
        """`set_i32` has done it."""


class _Quiet:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return False


class _Clock:
    def __init__(self):
        self.now_ms = 0

    def mono_ms(self):
        return self.now_ms


class Device:
    """One life of a device over a flash image and the second store's values."""

    slots_class = RomSlots
    updater_class = Updater
    blocks = _BLOCKS

    def __init__(self, image, values, spki):
        self.flash = RamFlash(self.blocks, image)
        self.nvs = _Nvs(self.flash, values)
        self.slots = self._slots()
        self.updater = self.updater_class(self.slots, _BOARD, [spki], self.nvs, _Quiet())

    def _slots(self):
        return self.slots_class(self.nvs, self.flash)

    @classmethod
    def flashed(cls, firmware):
        """The flash image of a device that runs `firmware`."""
        return firmware.ljust(cls.blocks * 4096, b"\xff")

    def others_whole(self):
        """Whether what is no image is as it was."""
        return True

    def damage(self, at, bit):
        """Flip a bit of the image that does not run."""
        self.flash.image[self.slots.slot_bytes + at] ^= bit

    def boot(self):
        """What the chooser starts: the bytes of the half."""
        slot = self.slots.choose()
        size = self.slots.slot_bytes
        return bytes(self.flash.image[slot * size : (slot + 1) * size])

    def take(self, package, activate=True):
        """Download and activate a package."""
        head, image, _ = packages.split(package)
        asyncio.run(self._take(head, image, activate))

    async def _take(self, head, image, activate):
        updater = self.updater
        have = (await updater.begin(b64encode(head)))["have"]
        for at in range(have, len(image), 2048):
            await updater.data(at, b64encode(image[at : at + 2048]))
        if activate:
            await updater.check()
            updater.activate()

    def live_well(self):
        """The first minutes of a firmware on trial."""
        clock = _Clock()
        probation = Probation(self.slots, self.nvs, clock, lambda: True, lambda: True)
        while not probation.check():
            clock.now_ms += 1000


class FileDevice(Device):
    """One whose images are files of a littlefs, beside its configuration."""

    slots_class = FileSlots
    blocks = _FILE_BLOCKS

    def _slots(self):
        self.fs = host_flash.mount(self.flash)
        return self.slots_class(self.nvs, "", self.fs, self.fs.open)

    @classmethod
    def flashed(cls, firmware):
        flash = RamFlash(cls.blocks)
        host_flash.mkfs(flash)
        fs = host_flash.mount(flash)
        for path, content in (("/config.json", _CONFIG), ("/a.romfs", firmware)):
            with fs.open(path, "wb") as file:
                file.write(content)
        return bytes(flash.image)

    def damage(self, at, bit):
        with self.slots.open(1) as file:
            content = bytearray(file.read())
        content[at] ^= bit
        with self.fs.open("/b.romfs", "wb") as file:
            file.write(content)

    def others_whole(self):
        with self.fs.open("/config.json", "rb") as file:
            return file.read() == _CONFIG

    def boot(self):
        try:
            slot = mount(self.slots, lambda slot: RomFile(self.slots.open(slot)), _Vfs(), ["", ""])
            with self.slots.open(slot) as file:
                return file.read()
        except OSError:
            if self.flash.dead:
                raise
            return b""


class _Vfs:
    """The module `vfs`, with nothing mounted."""

    def umount(self, path):
        raise OSError(22)

    def mount(self, image, path):
        image.umount()


class _NoHash(Updater):
    """Wrong: tries an image without looking whether it is the manifest's."""

    async def check(self):
        return self.fields


class _NoSignature(Updater):
    """Wrong: takes anybody's manifest."""

    async def _verify(self, digest, r, s):
        return None


class _NoCounter(Updater):
    """Wrong: takes an older firmware."""

    async def begin(self, head):
        held = self._nvs.values.pop("upd_ctr", None)
        try:
            return await super().begin(head)
        finally:
            if held is not None:
                self._nvs.values["upd_ctr"] = held


class _MarksFirst(Updater):
    """Wrong: marks an image for its trial before it is there."""

    async def begin(self, head):
        answer = await super().begin(head)
        self.activate()
        return answer


class _InPlace(RomSlots):
    """Wrong: writes over what runs."""

    def write(self, block, data):
        self._flash.writeblocks(block + self._first(self.running), data)


class _TrustsAtOnce(RomSlots):
    """Wrong: a new firmware has no trial."""

    def try_other(self):
        self._keep(1 - self.running)


class _OneFile(FileSlots):
    """Wrong: writes over the file that runs."""

    def _path(self, slot):
        return super()._path(0)


class _MakesRoom(FileSlots):
    """Wrong: deletes the file that runs first."""

    def write(self, block, data):
        if block == 0:
            self._remove(self.running)
        super().write(block, data)


class _TrustsFile(FileSlots):
    """Wrong: a new file has no trial."""

    try_other = _TrustsAtOnce.try_other


class _KeepsBack(FileSlots):
    """Wrong: has a file tried that is not closed, and hashes what it has in memory."""

    def write(self, block, data):
        super().write(block, data)
        self.kept = (b"" if block == 0 else self.kept) + bytes(data)

    def finish(self):
        """Wrong."""

    def read(self, slot, at, buffer):
        buffer[:] = self.kept[at : at + len(buffer)]


def _romfs(content):
    """A ROMFS with one file."""
    writer = VfsRomWriter()
    writer.mkfile("main.mpy", content)
    return writer.finalise()


def _spki(key):
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo).hex()


class _Campaign:
    """All trials over one pair of images and keys."""

    def __init__(self, device_class, seed, size):
        self.rng = rng = random.Random(seed)
        self.device_class = device_class
        self.key, self.other = (ec.derive_private_key(rng.randrange(1, 1 << 250), ec.SECP256R1())
                                for _ in range(2))
        self.old, self.new = (_romfs(rng.randbytes(size)) for _ in range(2))
        self.start = device_class.flashed(self.old)
        self.room = self.device().slots.slot_bytes
        self.package = packages.pack(self.new, self.key, _BOARD, "0.2.0", 7, _LEGAL)

    def device(self, image=None, values=None):
        return self.device_class(image or self.start, {"upd_ctr": 3} if values is None else values,
                                 _spki(self.key))

    def starts(self, device):
        """Which firmware a boot starts: "old", "new" or None for none that is whole."""
        found = device.boot()
        for name, image in (("old", self.old), ("new", self.new)):
            if found[: len(image)] == image:
                return name
        return None

    def cut(self, at, tear):
        """The power goes at operation `at` of everything; returns (whether it went, what is
        wrong or "")."""
        device = self.device()
        device.flash.cut_at, device.flash.tear = at, tear
        try:
            device.take(self.package)
            device.boot()
            device.live_well()
        except OSError:
            if not device.flash.dead:
                raise
        except UpdateError as error:
            return False, "a good package is refused: %s" % error
        cut = device.flash.dead
        later = self.device(device.flash.image, device.nvs.values)
        runs = self.starts(later)
        if runs is None:
            return cut, "nothing whole is started"
        if not later.others_whole():
            return cut, "another file is damaged"
        on_trial = later.slots.on_trial
        if not on_trial and later.nvs.values.get("upd_ctr", 0) < (7 if runs == "new" else 3):
            return cut, "the counter fell behind what is trusted"
        if on_trial:  # never confirmed: the old one comes back
            seen = [self.starts(later) for _ in range(4)]
            if seen[-1] != "old" or None in seen:
                return cut, "a trial that is never confirmed does not end"
        elif runs == "old":  # it can be had again
            try:
                later.take(self.package)
            except UpdateError as error:
                return cut, "the update cannot be had again: %s" % error
            if self.starts(later) != "new":
                return cut, "the update is taken again, and not started"
        return cut, ""

    def refused(self, at):
        """The flash refuses operation `at` of a download; returns (whether it did, what is wrong
        or "")."""
        device = self.device()
        device.flash.fail_at = at
        try:
            device.take(self.package, activate=False)
        except OSError:
            later = self.device(device.flash.image, device.nvs.values)
            if self.starts(later) != "old" or later.slots.on_trial or not later.others_whole():
                return True, "a flash that refuses once has changed what is started"
            try:
                device.take(self.package)
            except (OSError, UpdateError) as error:
                return True, "the update cannot be had again: %s" % error
            later = self.device(device.flash.image, device.nvs.values)
            if self.starts(later) != "new":
                return True, "the update is had again, and not started"
        return device.flash.fail_at < 0, ""

    def outlives_damage(self):
        """Whether a device goes back from an image that was damaged once it was checked."""
        device = self.device()
        device.take(self.package)
        device.damage(self.rng.choice((self.rng.randrange(8), self.rng.randrange(len(self.new)))),
                      1 << self.rng.randrange(8))
        return [self.starts(device) for _ in range(4)][-1] == "old"

    def hostile(self):
        """(what, package) that must not be taken."""
        rng, new = self.rng, self.new
        wrong = bytearray(self.package)
        wrong[rng.randrange(6, len(wrong) - len(new))] ^= 1 << rng.randrange(8)
        yield "a flipped bit in the head", bytes(wrong)
        yield "another key", packages.pack(new, self.other, _BOARD, "0.2.0", 8, _LEGAL)
        yield "an older counter", packages.pack(new, self.key, _BOARD, "0.1.0",
                                                rng.randrange(0, 4), _LEGAL)
        yield "another board", packages.pack(new, self.key, "esp32_s3_devkit", "0.2.0", 8, _LEGAL)
        yield "too large", packages.pack(rng.randbytes(self.room + 1), self.key, _BOARD, "1", 8,
                                       _LEGAL)
        yield "empty", packages.pack(b"", self.key, _BOARD, "0.2.0", 8, _LEGAL)
        cut = rng.randrange(len(self.package))
        yield "cut short", self.package[:cut]
        changed = bytearray(new)
        changed[rng.randrange(len(new))] ^= 1 << rng.randrange(8)
        yield "another image", self.package[: -len(new)] + bytes(changed)
        yield "longer than it says", self.package + b"\x00"

    def refuses(self, package):
        """Whether a device refuses a package and goes on with what it has."""
        device = self.device()
        at = 6 + int.from_bytes(package[4:6], "little") + 64
        head, image = package[:at], package[at:]
        try:
            asyncio.run(device._take(head, image, True))
        except (UpdateError, ValueError):
            later = self.device(device.flash.image, device.nvs.values)
            return self.starts(later) == "old" and not later.slots.on_trial
        return False


def _run(result, campaign, trials, progress=lambda done, all_: None, enough=_ENOUGH):
    at = tear = 0
    while result.trials < trials and result.violations < enough:
        progress(result.trials, trials)
        if tear < _TEARS:
            hit, wrong = campaign.cut(at, tear)
            result.counts["cuts"] += hit
        else:
            hit, wrong = campaign.refused(at)
            result.counts["operations that the flash refused"] += hit
        result.trials += 1
        if wrong:
            result.wrong("operation %d, %s: %s" % (at, _TOLD[tear], wrong))
        at += 1
        if not hit:
            at, tear = 0, tear + 1
            if tear > _TEARS:
                tear = 0
                for _ in range(_DAMAGES):
                    result.trials += 1
                    result.counts["damaged once it was checked"] += 1
                    if not campaign.outlives_damage():
                        result.wrong("a damaged image is started for ever")
                for what, package in campaign.hostile():
                    result.trials += 1
                    result.counts["refused: " + what] += 1
                    if not campaign.refuses(package):
                        result.wrong("taken: " + what)


def run(trials, seed=1, progress=lambda done, all_: None, *, files=False, size=5 * 4096):
    """At least `trials` cuts and hostile packages. `files`: the images, of `size` bytes, are files
    of a littlefs."""
    result = Result("update-files" if files else "update")
    device = FileDevice if files else Device
    _run(result, _Campaign(device, seed, size), trials, progress)
    wrong_slots = (_OneFile, _MakesRoom, _TrustsFile, _KeepsBack) if files else (_InPlace,
                                                                                _TrustsAtOnce)
    for wrong in (_NoHash, _NoSignature, _NoCounter, _MarksFirst, *wrong_slots):
        name = "slots_class" if wrong in wrong_slots else "updater_class"
        tried = Result("")
        _run(tried, _Campaign(type("Wrong", (device,), {name: wrong}), seed, 1000), 1000, enough=1)
        result.controls[wrong.__doc__.removeprefix("Wrong: ").rstrip(".")] = bool(tried.violations)
    return result
