"""Two images as files on littlefs: which one is started, and what a MicroPython without VfsRom
reads of them."""

import io
import json

import host_flash
from drivers.file_slots import FileSlots
from drivers.rom_file import RomFile
from drivers.rom_slots import mount
from fakes.memory_store import MemoryNvs
from fakes.nor_flash import NorFlash
from support import raises

_FLASH = NorFlash(9)  # one for all: a test's heap is small
_BLOCK = 4096


def _uint(value):
    found = [value & 127]
    while value > 127:
        value >>= 7
        found.insert(0, value & 127 | 128)
    return bytes(found)


def _record(kind, payload):
    return _uint(kind) + _uint(len(payload)) + payload


def _file(name, content):
    return _record(5, _uint(len(name)) + name + _record(2, content))


def _image(name, size=600):
    """A ROMFS with the files who, drivers/deep/big and drivers/one.json."""
    big = bytes((index * 7 + name[0]) & 255 for index in range(size))
    deep = _record(4, b"\x04deep" + _file(b"big", big))
    data = (_record(1, b"padding") + _record(4, b"\x07drivers" + deep + _file(
        b"one.json", b'{"model": "SDM120"}')) + _file(b"who", name))
    return b"\xd2\xcd\x31" + _uint(len(data)) + data


class _Chip:
    """A chip that was flashed with `first`."""

    def __init__(self, first):
        self.nvs = MemoryNvs()
        _FLASH.wipe()
        host_flash.mkfs(_FLASH)
        self.fs = host_flash.mount(_FLASH)
        if first is not None:
            self.put("/a.romfs", first)
        self.slots = FileSlots(self.nvs, "", self.fs, self.fs.open)

    def put(self, path, content):
        with self.fs.open(path, "wb") as file:
            file.write(content)

    def umount(self, path):
        assert path == "/rom"
        raise OSError(22)

    def mount(self, image, path):
        assert path == "/rom"
        self.mounted = image

    def boot(self):
        path = ["", ".frozen"]
        slots = self.slots = FileSlots(self.nvs, "", self.fs, self.fs.open)
        found = mount(slots, lambda slot: RomFile(slots.open(slot)), self, path)
        assert path == ["", "/rom", ".frozen"] and found == slots.running
        with self.mounted.open("/who", "r") as file:
            who = file.read()
        self.mounted.umount()
        return who

    def write(self, image):
        for at in range(0, len(image), _BLOCK):
            block = bytearray(_BLOCK)
            piece = image[at : at + _BLOCK]
            block[: len(piece)] = piece
            self.slots.write(at // _BLOCK, block)
        self.slots.finish()


def test_an_image_in_a_file_reads_as_a_file_system():
    chip = _Chip(_image(b"a"))
    rom = RomFile(chip.slots.open(0))
    assert sorted(one[0] for one in rom.ilistdir("/")) == ["drivers", "who"]
    assert list(rom.ilistdir("/drivers")) == [("deep", 0x4000, 0, 610),
                                              ("one.json", 0x8000, 0, 19)]
    for path, kind, size in (("/who", 0x8000, 1), ("/drivers/deep", 0x4000, 610),
                             ("/drivers/deep/big", 0x8000, 600), ("", 0x4000, None)):
        found = rom.stat(path)
        assert found[0] == kind and size in (None, found[6]) and len(found) == 10
    with rom.open("/drivers/one.json", "r") as file:
        assert json.load(file) == {"model": "SDM120"}
    one, two = (rom.open("/drivers/deep/big", "rb") for _ in range(2))
    seen = bytearray()
    buffer = bytearray(249)
    while True:  # two at once do not disturb each other
        got = one.readinto(buffer)
        if not got:
            break
        seen.extend(buffer[:got])
        two.readinto(bytearray(7))
    assert seen == bytes((index * 7 + 97) & 255 for index in range(600))
    for action, error in ((lambda: rom.stat("/no"), 2), (lambda: rom.stat("/who/x"), 2),
                          (lambda: rom.open("/drivers/x", "rb"), 2),
                          (lambda: rom.open("/drivers", "rb"), 21),
                          (lambda: rom.open("/who", "w"), 30),
                          (lambda: list(rom.ilistdir("/who")), 20)):
        assert raises(OSError, action).args[0] == error
    rom.umount()


def test_what_is_no_whole_image_is_none_and_damage_is_an_error():
    good = _image(b"a", 300)
    for bad in (b"", b"\xd2", good[:3], good[:-1], good[:40], b"\xff" * 500, b"\xd2\xcd\x31\xff",
                b"\xd2\xcd\x31" + b"\xff" * 200, b"\xd2\xcd\x32" + good[3:]):
        assert raises(OSError, lambda bad=bad: RomFile(io.BytesIO(bad))).args[0] == 19
    for bit in range(24, 60 * 8):  # of the records' heads: an error or an answer, in time
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            rom = RomFile(io.BytesIO(bad))
        except OSError as error:
            assert error.args[0] == 19
            continue
        for path in ("/who", "/drivers/deep/big"):
            try:
                rom.open(path, "rb").readinto(bytearray(400))
            except OSError as error:
                assert error.args[0] in (2, 5, 21), error


def test_an_image_on_trial_is_started_three_times_and_then_given_up():
    chip = _Chip(_image(b"a"))
    assert chip.slots.there()
    assert chip.boot() == chip.boot() == "a"
    chip.write(_image(b"b"))
    assert chip.boot() == "a"
    chip.slots.try_other()
    assert [chip.boot() for _ in range(5)] == ["b", "b", "b", "a", "a"]
    chip.slots.try_other()
    assert chip.boot() == "b"
    chip.slots.trust(chip.slots.running)
    chip.write(_image(b"c"))
    assert chip.boot() == "b"
    chip.slots.try_other()
    assert chip.boot() == "c" and chip.slots.running == 0
    chip.slots.give_up()
    assert chip.boot() == "b"


def test_one_that_is_damaged_makes_way_for_the_other():
    for first, second, found in ((_image(b"a"), b"", "a"), (b"", _image(b"b"), "b"),
                                 (_image(b"a"), _image(b"b")[:-1], "a"), (None, _image(b"b"), "b"),
                                 (_image(b"a"), None, "a")):
        chip = _Chip(first)
        if second is not None:
            chip.put("/b.romfs", second)
        chip.slots.try_other()
        for _ in range(6):
            last = chip.boot()
        assert last == found
    chip = _Chip(b"")
    assert not chip.slots.there()
    assert raises(OSError, chip.boot).args[0] == 19


def test_the_room_is_what_is_free_and_what_the_forerunner_gives_back():
    chip = _Chip(_image(b"a", 4000))
    chip.put("/b.romfs", bytes(4000))
    room = chip.slots.slot_bytes
    chip.fs.remove("/b.romfs")
    free = chip.slots.slot_bytes
    assert free % _BLOCK == 0 and 0 < abs(room - free) < _BLOCK
    small = [chip.slots.slot_bytes]
    for block in range(2):
        chip.slots.write(block, bytes(_BLOCK))
        small.append(chip.slots.slot_bytes)  # an update goes on after the connection was lost
    assert min(small) > free - 2 * _BLOCK
    chip.slots.finish()


def test_blocks_come_in_order_and_a_failure_begins_anew():
    chip = _Chip(_image(b"a"))
    for block in (1, 2):
        assert raises(OSError, lambda block=block: chip.slots.write(block, bytes(_BLOCK)))
    chip.slots.write(0, bytes(_BLOCK))
    for block in (2, 3):
        assert raises(OSError, lambda block=block: chip.slots.write(block, bytes(_BLOCK)))
    _FLASH.fail = 5
    assert raises(OSError, lambda: chip.slots.write(1, bytes(_BLOCK)))
    assert raises(OSError, lambda: chip.slots.write(1, bytes(_BLOCK)))
    assert chip.boot() == "a"
    chip.write(_image(b"b"))
    held = bytearray(3)
    chip.slots.read(1, 0, held)
    assert held == b"\xd2\xcd\x31"
    assert raises(OSError, lambda: chip.slots.read(1, 3 * _BLOCK, held))
    chip.slots.try_other()
    assert chip.boot() == "b"
