"""One life of the journal on one of its stores, and what the next boot must find of it."""

import binascii
import hashlib
import struct

import host_flash
from evmeter.ledger import journal as frames
from evmeter.ledger import ring_scan
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ring import RingStore
from evmeter.ledger.segments import SegmentStore
from evmeter_tools.faults.ram_flash import BLOCK_BYTES, RamFlash

_RESERVE = 6
_HEADER = "<HHIB16s"  # of a frame, ledger/journal.py
_FRAME_BYTES = 29  # around the payload
_REFUSED = (9, 24)  # by the backend
_LATER = 9  # behind the last known frame, a wrong design may believe in millions


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
    return b"%06d" % number + bytes((number % 251,)) * (number * 337 % 1900)


class OnLittlefs:
    """Segments on the real littlefs; `store_class` may be a wrong design."""

    name = ""
    blocks = 18

    def __init__(self, store_class=SegmentStore):
        self.store_class = store_class

    def format(self, flash):
        """Commission a flash."""
        host_flash.mkfs(flash)
        SegmentStore.format(host_flash.mount(flash))

    def store(self, flash):
        """The store on a flash."""
        return self.store_class(lambda: host_flash.mount(flash), _RESERVE)


class OnRing:
    """The ring of sectors; `store_class` may be a wrong design."""

    name = "-ring"
    blocks = 13

    def __init__(self, store_class=RingStore):
        self.store_class = store_class

    def format(self, flash):
        """Commission a flash."""
        ring_scan.lay(flash)

    def store(self, flash):
        """The store on a flash."""
        return self.store_class(lambda: flash)


def stores(ring):
    """The ring, or littlefs."""
    return OnRing() if ring else OnLittlefs()


class Device:
    """What a device is made of: a store (OnLittlefs, OnRing) and the class of its journal."""

    def __init__(self, stores, journal_class=Journal):
        self.stores = stores
        self.journal_class = journal_class

    @property
    def blocks(self):
        """Size of the flash."""
        return self.stores.blocks

    def what_is_wrong(self):
        """Of a wrong design, in the words of its docstring."""
        design = self.journal_class
        if design is Journal:
            design = self.stores.store_class
        return " ".join(design.__doc__.split()[3:])

    def blank_image(self):
        """A freshly commissioned flash."""
        flash = RamFlash(self.blocks)
        self.stores.format(flash)
        return bytes(flash.image)

    def live(self, image, values):
        """Switch on: a `Life`."""
        return Life(self, image, values)


class Told:
    """What the device's other side may rely on: numbers given out, what was confirmed, what of it
    was refused and is to be kept, and what each small file may hold: {name: bodies}, several of
    them from a write on that was not acknowledged."""

    def __init__(self, other=None):
        self.last = other.last if other else 0
        self.confirmed = other.confirmed if other else 0
        self.refused = list(other.refused) if other else []
        self.small = dict(other.small) if other else {}

    def saving(self, name, body):
        """A small file is going to be written."""
        self.small[name] = (*self.small.get(name, (None,)), body)

    def saved(self, name):
        """It is there."""
        self.small[name] = self.small[name][-1:]


class Life:
    """One life of a device: the flash as it was left, the second store, the journal over them."""

    def __init__(self, device, image, values):
        self.device = device
        self.flash = RamFlash(device.blocks, image)
        self.nvs = Nvs(values)
        self.nvs.flash = self.flash
        self.store = device.stores.store(self.flash)
        self.journal = device.journal_class(self.store, self.nvs, account)

    def append(self, told):
        """One record."""
        number = self.journal.next_seq
        self.journal.append(frames.REC, payload(number), page=number)
        told.last = number

    def save(self, told):
        """A checkpoint."""
        body = b"%06d" % told.last * 11
        told.saving("session", body)
        self.journal.save_small("session", body)
        told.saved("session")

    def confirm(self, told):
        """The backend has all but the newest records."""
        told.confirmed = max(told.confirmed, told.last - 4)
        if told.confirmed == self.journal.cursor:
            return
        refused = [seq for seq in _REFUSED if self.journal.cursor < seq <= told.confirmed]
        self.journal.confirm(told.confirmed, refused, refused)
        if refused:
            told.saving("refused", b"".join(seq.to_bytes(4, "little")
                                            for seq in self.journal.refused))
        told.saving("cursor", told.confirmed.to_bytes(4, "little"))
        self.journal.save_cursor()
        for name in ("refused", "cursor") if refused else ("cursor",):
            told.saved(name)
        told.refused += refused

    def work(self, told, appends):
        """Open, append, checkpoint, confirm; ends early at the cut."""
        self.journal.open()
        # What an interrupted write has left is known from here on; the judge has had its say.
        told.last = self.journal.next_seq - 1
        for name in told.small:
            told.small[name] = (self.store.read_small(name),)
        for _ in range(appends):
            self.append(told)
            for _ in range(3 if told.last % 3 == 0 else 0):
                self.save(told)
            if told.last % 5 == 0:
                self.confirm(told)


def wrong_small(life, told):
    """Small files that are neither what they were nor what was being written."""
    return ["%s is another" % name for name, bodies in told.small.items()
            if life.store.read_small(name) not in bodies]


def _is_held(life, seq):
    """Whether a confirmed frame is in the newer part, in which no segment was given back."""
    segments = life.store.segments
    kept = sum(1 for first in segments if first <= max(life.journal.refused, default=0))
    return kept < len(segments) and seq >= segments[kept]


def wrong_frames(life, told):
    """Frames that read as something else than was written, and those that should be there and
    cannot be read: ([texts], [texts])."""
    journal = life.journal
    buffer = bytearray(frames.MAX_PAYLOAD)
    corrupt, missing = [], []
    first = min([told.confirmed + 1, *life.store.segments[:1], *told.refused])
    for seq in range(max(1, first), min(journal.next_seq, told.last + _LATER)):
        if seq <= told.confirmed and seq not in told.refused and not _is_held(life, seq):
            continue
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
    begun = 0
    unit = life.store.unit
    for first in life.store.segments:
        if before and first > before[0] and any(
                begun <= seq < before[0] for seq in life.journal.refused):
            before = None  # that one was kept, what lay between was given back
        begun = first
        data = bytearray(BLOCK_BYTES)
        length = life.store.read(first, 0, data, len(data))
        at = 0
        while at < length and data[at] == frames._MAGIC & 0xFF:
            _, size, seq, _, previous = struct.unpack_from(_HEADER, data, at)
            end = at + size + _FRAME_BYTES
            if not _whole(data[at:end]):
                break
            after = seq + 1, hashlib.sha256(data[at:end]).digest()[:16]
            # a segment may begin with the frame before it, which could not be read back
            if before and before != (seq, previous) and (at or before != after):
                wrong.append("frame %d does not follow the one before" % seq)
            before = after
            at = -(-end // unit) * unit
    return wrong


def _whole(frame):
    return binascii.crc32(frame[:-4]).to_bytes(4, "little") == frame[-4:]
