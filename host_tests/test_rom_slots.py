from binascii import crc32

from drivers.rom_slots import RomSlots, mount
from fakes.memory_store import MemoryNvs
from fakes.nor_flash import NorFlash

_HALF = 2 * 4096
_FLASH = NorFlash(4)  # one for all: a test's heap is small


class _Vfs:
    """The module `vfs`: an image begins with its magic, or is none."""

    def __init__(self, mounted=True):
        self.mounted = "auto" if mounted else None

    def VfsRom(self, data):  # noqa: N802
        if bytes(data[:4]) != b"ROMF":
            raise OSError(19)
        return bytes(data[4:5])

    def umount(self, path):
        assert path == "/rom"
        if self.mounted is None:
            raise OSError(22)
        self.mounted = None

    def mount(self, image, path):
        assert path == "/rom"
        self.mounted = image


class _Chip:
    def __init__(self, first=b"ROMFa", second=b"ROMFb"):
        self.nvs = MemoryNvs()
        self.flash = _FLASH
        _FLASH.wipe()
        self.flash.image[: len(first)] = first
        self.flash.image[_HALF : _HALF + len(second)] = second

    def slots(self):
        return RomSlots(self.nvs, self.flash)

    def boot(self, path=None):
        vfs = _Vfs(bytes(self.flash.image[:4]) == b"ROMF")
        path = ["", "/rom", ".frozen"] if vfs.mounted else ["", ".frozen"]
        view = memoryview(self.flash.image)
        mount(self.slots(), lambda slot: vfs.VfsRom(view[slot * _HALF : (slot + 1) * _HALF]), vfs,
              path)
        assert path == ["", "/rom", ".frozen"]
        return vfs.mounted.decode()


def test_what_was_flashed_is_started():
    chip = _Chip()
    assert chip.boot() == chip.boot() == "a"
    assert (chip.slots().running, chip.slots().on_trial, chip.slots().slot_bytes) == (0, False,
                                                                                     _HALF)


def test_an_image_on_trial_is_started_three_times_and_then_given_up():
    chip = _Chip()
    chip.slots().try_other()
    for _ in range(3):
        assert chip.boot() == "b"
        assert chip.slots().on_trial and chip.slots().running == 1
    for _ in range(3):
        assert chip.boot() == "a"
        assert not chip.slots().on_trial and chip.slots().running == 0


def test_one_that_is_trusted_stays_and_the_next_goes_into_the_other_half():
    chip = _Chip()
    chip.slots().try_other()
    assert chip.boot() == "b"
    chip.slots().trust(chip.slots().running)
    assert [chip.boot() for _ in range(5)] == ["b"] * 5
    chip.slots().write(0, b"ROMFc" + bytes(4091))
    assert chip.boot() == "b"
    chip.slots().try_other()
    assert chip.boot() == "c"
    chip.slots().give_up()
    assert chip.boot() == "b"


def test_an_image_that_cannot_be_mounted_makes_way_for_the_other():
    for first, second, found in ((b"ROMFa", b"\xff" * 5, "a"), (b"\xff" * 5, b"ROMFb", "b"),
                                 (b"ROMxa", b"ROMFb", "b")):
        chip = _Chip(first, second)
        chip.slots().try_other()
        for _ in range(6):
            assert chip.boot() in (found, "b")
        assert chip.boot() == found
    try:
        _Chip(b"\xff" * 5, b"\xff" * 5).boot()
    except OSError as error:
        assert error.args[0] == 19
    else:
        raise AssertionError("two that are none")


def test_the_running_half_is_never_written():
    chip = _Chip()
    for running in (0, 1, 0):
        slots = chip.slots()
        assert slots.running == running
        view = memoryview(chip.flash.image)[running * _HALF : (running + 1) * _HALF]
        before = crc32(view)
        for block in range(2):
            slots.write(block, bytes((65 + block + running,)) * 4096)
        assert crc32(view) == before
        found = bytearray(8)
        slots.read(1 - running, 4096 + 8, found)
        assert found == bytes((66 + running,)) * 8
        slots.trust(1 - running)


def test_what_the_flash_does_not_take_is_told():
    chip = _Chip()
    for fail in (0, 1):
        chip.flash.fail = fail
        try:
            chip.slots().write(0, bytes(4096))
        except OSError as error:
            assert error.args[0] == 5
        else:
            raise AssertionError("not told")
