"""Two images of the firmware in one flash partition, one in each half, and which one is started.

The second store holds that in one whole number, so that each change of it is whole or not at all:

bit 0          the half that is trusted
bit 1          the other half is on trial
from bit 2 on  how often it may still be started on trial

An image on trial that does not confirm itself within three starts is given up: the next start is
the trusted one again.
"""

from micropython import const

_KEY = "slot"
_TRIAL = const(2)
_STARTS = const(3)
_SECTOR = const(4096)


class Slots:
    """Which of two images is started, 0 or 1; `nvs` as esp32.NVS. Where they lie is a subclass's.
    """

    def __init__(self, nvs):
        self._nvs = nvs

    def _state(self):
        try:
            return self._nvs.get_i32(_KEY)
        except OSError:
            return 0  # as it was flashed

    def _keep(self, state):
        self._nvs.set_i32(_KEY, state)
        self._nvs.commit()

    @property
    def on_trial(self):
        """Whether what runs is the image that is on trial."""
        return bool(self._state() & _TRIAL)

    @property
    def running(self):
        """The image that was started, 0 or 1."""
        state = self._state()
        return state & 1 ^ (1 if state & _TRIAL else 0)

    def choose(self):
        """The image to start, 0 or 1; a start on trial is counted. Once at each boot, first of
        all."""
        state = self._state()
        if state & _TRIAL:
            if state >> 2:
                self._keep(state - 4)
            else:
                self.give_up()
        return self.running

    def give_up(self):
        """The image on trial is not started again."""
        self._keep(self._state() & 1)

    def trust(self, slot):
        """Image `slot` is started from now on."""
        self._keep(slot)

    def try_other(self):
        """Start the other image on trial at the next boot."""
        self._keep(self._state() & 1 | _TRIAL | _STARTS << 2)


class RomSlots(Slots):
    """In the halves of `flash`, a block device as esp32.Partition, erased and written in blocks of
    4 KiB."""

    def __init__(self, nvs, flash):
        super().__init__(nvs)
        self._flash = flash
        self.blocks = flash.ioctl(4, 0) // 2  # of one half

    @property
    def slot_bytes(self):
        """Room for one image."""
        return self.blocks * _SECTOR

    def write(self, block, data):
        """Write block `block` of the half that does not run: 4,096 bytes. An erase may take 400
        ms. Raises OSError where it is not there afterwards."""
        block += self._first(1 - self.running)
        self._flash.writeblocks(block, data)  # erases first, as it has no offset
        held = bytearray(256)
        for at in range(0, _SECTOR, 256):
            self._flash.readblocks(block, held, at)
            if held != memoryview(data)[at : at + 256]:
                raise OSError(5)

    def finish(self):
        """All blocks were written: they are there already."""

    def read(self, slot, at, buffer):
        """Fill `buffer` from byte `at` of the image in half `slot`; not over a block's end."""
        self._flash.readblocks(self._first(slot) + at // _SECTOR, buffer, at % _SECTOR)

    def _first(self, slot):
        return slot * self.blocks


def mount(slots, image, vfs, path):
    """Mount the image to start at /rom; returns which one it is. Where it is none, the other one
    is trusted from then on. Raises OSError where neither is an image.

    `image(slot)` gives one of them as a file system, or raises OSError; `vfs` is the module,
    `path` sys.path. MicroPython has mounted a partition's first half by itself, if it could.
    """
    first = slots.choose()
    try:
        vfs.umount("/rom")
    except OSError:
        path.insert(1, "/rom")  # nothing was mounted, so that it is not there yet
    for slot in (first, 1 - first):
        try:
            found = image(slot)
        except OSError:
            continue
        if slot != first:
            slots.trust(slot)
        vfs.mount(found, "/rom")
        return slot
    raise OSError(19, "there is no firmware")
