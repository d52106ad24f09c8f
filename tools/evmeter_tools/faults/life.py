"""One life of the journal on the real littlefs, and what the next boot must find of it."""

import hashlib
import struct

import host_flash
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.segments import SegmentStore
from evmeter_tools.faults.ram_flash import BLOCK_BYTES, RamFlash

BLOCKS = 18
_RESERVE = 6
_HEADER = "<HHIB16s"  # of a frame, ledger/journal.py
_FRAME_BYTES = 29  # around the payload


class Nvs:
    """The second store: esp32.NVS whose writes happen whole or not at all. `watch()` is called
    before each; it dies with the flash `flash`."""

    def __init__(self, values=()):
        self.values = dict(values)
        self.watch = None
        self.flash = None

    def get_blob(self, key, buffer):
        """As esp32.NVS."""
        if key not in self.values:
            raise OSError(0x1102)
        value = self.values[key]
        buffer[: len(value)] = value
        return len(value)

    def set_blob(self, key, value):
        """As esp32.NVS."""
        if self.flash and self.flash.dead:
            raise OSError(5)
        if self.watch:
            self.watch()
        self.values[key] = bytes(value)

    def commit(self):
        """As esp32.NVS."""


def account(kind, payload):
    """What a frame changes in the head: its page is its number."""
    return {"page": int(payload[:6])} if kind == frames.REC else {}


def payload(number):
    """The payload of frame `number`, up to 1,900 bytes."""
    return b"%06d" % number + bytes((number,)) * (number * 337 % 1900)


def blank_image():
    """A freshly commissioned flash."""
    flash = RamFlash(BLOCKS)
    host_flash.mkfs(flash)
    SegmentStore.format(host_flash.mount(flash))
    return bytes(flash.image)


class Told:
    """What the device's other side may rely on: numbers given out, and what was confirmed."""

    def __init__(self, other=None):
        self.last = other.last if other else 0
        self.confirmed = other.confirmed if other else 0


class Life:
    """One life of a device: the flash as it was left, the second store, the journal over them."""

    def __init__(self, image, values, journal_class=Journal):
        self.flash = RamFlash(BLOCKS, image)
        self.nvs = Nvs(values)
        self.nvs.flash = self.flash
        store = SegmentStore(lambda: host_flash.mount(self.flash), _RESERVE)
        self.store = store
        self.journal = journal_class(store, self.nvs, account)

    def append(self, told):
        """One record."""
        number = self.journal.next_seq
        self.journal.append(frames.REC, payload(number), page=number)
        told.last = number

    def work(self, told, appends):
        """Open, append, checkpoint, confirm; ends early at the cut."""
        journal = self.journal
        journal.open()
        for _ in range(appends):
            self.append(told)
            if told.last % 3 == 0:
                journal.save_small("session", b"%06d" % told.last)
            if told.last % 5 == 0:
                told.confirmed = max(told.confirmed, told.last - 4)
                journal.confirm(told.last - 4)
                journal.save_cursor()


def wrong_frames(life, told):
    """Frames that read as something else than was written, and those that should be there and
    cannot be read: ([texts], [texts])."""
    journal = life.journal
    buffer = bytearray(frames.MAX_PAYLOAD)
    corrupt, missing = [], []
    first = min(told.confirmed + 1, life.store.segments[0] if life.store.segments else 1)
    for seq in range(max(1, first), journal.next_seq):
        try:
            _, length = journal.read(seq, buffer)
            if bytes(buffer[:length]) != payload(seq):
                corrupt.append("frame %d is another" % seq)
        except JournalError as error:
            if seq <= told.last:
                missing.append(str(error))
    return corrupt, missing


def chain_faults(life):
    """Where a number is missing or doubled, or a frame does not follow the one before it."""
    wrong = []
    before = None
    for first in life.store.segments:
        data = bytearray(BLOCK_BYTES)
        length = life.store.read(first, 0, data, len(data))
        at = 0
        while at < length:
            _, size, seq, _, previous = struct.unpack_from(_HEADER, data, at)
            if before and (seq, previous) != before:
                wrong.append("frame %d does not follow the one before" % seq)
            end = at + size + _FRAME_BYTES
            before = seq + 1, hashlib.sha256(data[at:end]).digest()[:16]
            at = end
    return wrong
