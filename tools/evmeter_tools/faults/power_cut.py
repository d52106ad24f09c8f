"""Campaigns `power-cut` and `bit-rot` on the journal over the real littlefs, and
`power-cut-ring` and `bit-rot-ring` over the ring of sectors.

power-cut: the power goes at every program and erase of the flash and before every write of the
second store, with the operation torn in several ways; then once more while the next boot recovers.
A violation is an acknowledged record that is lost or another, a number given out twice, a refused
record that is given back before others, a fault reported that is none, a small file that is
neither old nor new, and on the ring a program over bytes that are not blank.

bit-rot: single bits of the image flip. A violation is a corrupt payload that is accepted, a number
given out twice, or an exception other than JournalError.
"""

import random
import traceback

from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ring import RingStore
from evmeter_tools.faults.life import (
    Device,
    OnLittlefs,
    OnRing,
    Told,
    chain_faults,
    payload,
    wrong_frames,
    wrong_small,
)
from evmeter_tools.faults.ram_flash import BLOCK_BYTES
from evmeter_tools.faults.result import Control, Result

_APPENDS = 72
_LATER = 3
_FIRST_PERCENT = 75  # of the trials are first cuts, the others second ones
# of a wrong design: appends, progress, torn in many ways, every so manieth operation
_CONTROL = {"": (12, None, False, 3), "-ring": (64, None, True, 7)}
_CONTROL_FLIPS = 6000


def judge(image, values, told, device):
    """Violations after a cut: what a fresh boot finds, and gives out next, against `told`."""
    life = device.live(image, values)
    journal = life.journal
    try:
        journal.open()
        wrong = list(journal.faults)
        if journal.next_seq not in (told.last + 1, told.last + 2):
            wrong.append("next is %d after %d" % (journal.next_seq, told.last))
        if journal.page != journal.next_seq - 1:
            wrong.append("page %d" % journal.page)
        if journal.cursor > told.last:
            wrong.append("cursor %d" % journal.cursor)
        corrupt, missing = wrong_frames(life, told)
        wrong += corrupt + missing + wrong_small(life, told)
        after = Told(told)
        life.append(after)
        if device.stores.name and life.flash.rewrites:
            wrong.append("programmed over bytes that are not blank")
        again = device.live(bytes(life.flash.image), life.nvs.values)
        again.journal.open()
        buffer = bytearray(frames.MAX_PAYLOAD)
        _, length = again.journal.read(after.last, buffer)
        if after.last <= told.last or bytes(buffer[:length]) != payload(after.last):
            wrong.append("frame %d after the cut is wrong" % after.last)
        wrong += chain_faults(again)
    except JournalError as error:
        wrong = ["journal: %s" % error]
    return wrong


def _tears(rng, before, data, many):
    """What an interrupted operation may leave of `data` over `before`."""
    length = len(data)
    cuts = [0, length // 2, length - 1]
    if many:
        cuts += [1, rng.randrange(length), rng.randrange(length)]
    for cut in cuts:
        yield data[:cut] + before[cut:]
    if length == BLOCK_BYTES:  # an erase
        yield before[: length // 2] + data[length // 2 :]
        if many:
            yield bytes(length)
    if many:  # some bits have changed already, others have not
        mask = int.from_bytes(rng.randbytes(length), "big")
        old, new = int.from_bytes(before, "big"), int.from_bytes(data, "big")
        yield (old ^ (old ^ new) & mask).to_bytes(length, "big")


class _Cutter:
    """Lives once and, before each operation, tries what a cut there would leave."""

    def __init__(self, result, rng, most, device, many=True, each=1,
                 progress=None):
        self._progress = progress
        self._result = result
        self._rng = rng
        self._most = most
        self._device = device
        self._many = many
        self._each = each
        self._points = 0
        self.kept = []  # (image, values, told) for second cuts

    @property
    def enough(self):
        """Whether the wanted number of trials is reached, or one told enough."""
        return self._result.trials >= self._most or self._result.settled

    def live(self, image, values, told, appends):
        """One life; `told` is what was known at its begin."""
        self._life = life = self._device.live(image, values)
        self._told = told
        life.flash.watch = self._flash
        life.nvs.watch = self._second_store
        life.work(told, appends)

    def _try(self, image, cut):
        result = self._result
        if self.enough:
            return
        result.trials += 1
        values = dict(self._life.nvs.values)
        told = Told(self._told)
        for text in judge(image, values, told, self._device):
            result.wrong("%s: %s" % (cut, text))
        if self._many and self._rng.random() < 0.06:
            self.kept.append((image, values, told))

    def _due(self):
        self._points += 1
        if self._progress:
            self._progress(self._result.trials, self._most)
        return not self._points % self._each and not self.enough

    def _flash(self, at, data):
        self._result.counts["cut points on flash"] += 1
        if not self._due():
            return
        image = self._life.flash.image
        before = bytes(image[at : at + len(data)])
        for piece in _tears(self._rng, before, data, self._many):
            self._try(bytes(image[:at]) + piece + bytes(image[at + len(data):]),
                      "cut at %d" % self._life.flash.operations)

    def _second_store(self):
        self._result.counts["cut points at the second store"] += 1
        if self._due():
            self._try(bytes(self._life.flash.image), "cut at the second store")


class _HeadFirst(Journal):
    """A wrong design: the second store hears of a frame before the flash has it."""

    def append(self, kind, body, **head):
        kept = self.next_seq
        self.next_seq = kept + 1
        self._save_head()
        self.next_seq = kept
        return super().append(kind, body, **head)


class _NoHead(Journal):
    """A wrong design: the second store is told nothing."""

    def _save_head(self):
        return None


class _NoTakeOver(Journal):
    """A wrong design: a frame that the second store has not heard of counts as not written."""

    def _scan(self):
        found = super()._scan()
        if found[0] == self.next_seq:
            return (self.next_seq - 1, self.hash, *found[2:])
        return found


class _NoCrc(Journal):
    """A wrong design: frames are believed by their length."""

    def _load(self, segment, offset):
        frame = self._frame
        got = self._store.read(segment, offset, frame, len(frame))
        length = int.from_bytes(frame[2:4], "little")
        if got < 29 or length > frames.MAX_PAYLOAD or got < length + 29:
            return 0, int(got > 0), 0
        return frame[8], length, int.from_bytes(frame[4:8], "little")


class _NothingSetAside(Journal):
    """A wrong design: an append goes on behind what a power cut has torn."""

    def _scan(self):
        found = super()._scan()
        self._store._size = found[4] + (found[6] + 29 + 15) // 16 * 16 if found[0] else 4064
        return found


class _OldestFirst(Journal):
    """A wrong design: what the backend has refused is given back like all else."""

    def _holds_refused(self, index):
        return False


class _OneSmallSector(RingStore):
    """A wrong design: the small files have one sector, erased when it is full."""

    def write_small(self, name, body):
        small = self._small
        if small._newest >= 0:
            small._newest -= small._size + 224 > 4064
        super().write_small(name, body)


class _LengthOnly(Journal):
    """A wrong design: whether a frame is whole is told by its length."""

    def _load(self, segment, offset):
        frame = self._frame
        got = self._store.read(segment, offset, frame, len(frame))
        length = int.from_bytes(frame[2:4], "little")
        if got < 29 or frame[0] != 0xA5 or got < length + 29:
            return 0, int(got > 0), 0
        return frame[8], length, int.from_bytes(frame[4:8], "little")


_WRONG = {
    "": [Device(OnLittlefs(), design) for design in (_HeadFirst, _NoHead, _NoTakeOver)],
    "-ring": [Device(OnRing(), design) for design in (_HeadFirst, _NoTakeOver, _NothingSetAside,
                                                      _LengthOnly, _OldestFirst)]
    + [Device(OnRing(design)) for design in (_OneSmallSector,)],
}
_ROTTEN = {
    "": [Device(OnLittlefs(), design) for design in (_NoHead, _NoCrc)],
    "-ring": [Device(OnRing(), design) for design in (_NoHead, _NoCrc)],
}


def _cuts(result, device, trials, seed, appends, progress=None, many=True, each=1):
    rng = random.Random(seed)
    most = trials * _FIRST_PERCENT // 100 if many else trials
    cutter = _Cutter(result, rng, most, device, many, each, progress)
    cutter.live(device.blank_image(), {}, Told(), appends)
    result.counts["trials of a first cut"] = result.trials
    later = _Cutter(result, rng, trials, device, False)
    rng.shuffle(cutter.kept)
    for image, values, told in cutter.kept:
        if later.enough:
            return
        later.live(image, values, told, _LATER)
        result.counts["second lives that were cut"] += 1
        if progress:
            progress(result.trials, trials)


def power_cut(trials=16000, seed=5, progress=None, appends=_APPENDS, each=1, stores=None):
    """At least `trials` cuts; `each`: only every so manieth operation is cut. `stores`: OnLittlefs
    (default) or OnRing."""
    stores = stores or OnLittlefs()
    result = Result("power-cut" + stores.name)
    _cuts(result, Device(stores), trials, seed, appends, progress, each=each)
    for design in _WRONG[stores.name]:
        tried = Control()
        _cuts(tried, design, 3000, seed, *_CONTROL[stores.name])
        result.controls[design.what_is_wrong()] = bool(tried.violations)
    return result


def _flip(result, image, values, told, bit, device):
    """Boot on an image with one bit flipped: (outcome, violations)."""
    image = bytearray(image)
    image[bit >> 3] ^= 1 << (bit & 7)
    life = device.live(bytes(image), values)
    try:
        life.journal.open()
        corrupt, missing = wrong_frames(life, told)
        outcome = "flips: found when a frame is read" if missing else "flips: no frame harmed"
        if life.journal.faults:
            outcome = "flips: reported at the boot"
        if missing:
            result.counts["frames lost with the first one, in its segment or directory"] += (
                len(missing) - 1)
        after = Told(told)
        life.append(after)
        if after.last <= told.last:
            corrupt.append("number %d was given out again" % after.last)
        return outcome, corrupt
    except JournalError:
        return "flips: journal refused", []
    except Exception:  # whatever gets out is what is looked for
        return "flips: crash", [traceback.format_exc().strip().replace("\n", " / ")]


def _rot(result, device, trials, seed, appends, progress=None):
    rng = random.Random(seed)
    life = device.live(device.blank_image(), {})
    told = Told()
    life.work(told, appends)
    image, values = bytes(life.flash.image), dict(life.nvs.values)
    bits = device.blocks * BLOCK_BYTES * 8
    while result.trials < trials and not result.settled:
        bit = rng.randrange(bits)
        result.trials += 1
        outcome, wrong = _flip(result, image, values, told, bit, device)
        result.counts[outcome] += 1
        for text in wrong:
            result.wrong("bit %d: %s" % (bit, text))
        if progress and not result.trials % 500:
            progress(result.trials, trials)


def bit_rot(trials=20000, seed=6, progress=None, control_trials=_CONTROL_FLIPS,
            appends=_APPENDS, stores=None):
    """`trials` flips of one bit each. `stores`: OnLittlefs (default) or OnRing."""
    stores = stores or OnLittlefs()
    result = Result("bit-rot" + stores.name)
    _rot(result, Device(stores), trials, seed, appends, progress)
    for design in _ROTTEN[stores.name]:
        tried = Control()
        _rot(tried, design, control_trials, seed, appends)
        result.controls[design.what_is_wrong()] = bool(tried.violations)
    return result
