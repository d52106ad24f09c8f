"""Campaigns `hostile-flash` and `hostile-flash-ring`: the flash reports EIO or ENOSPC at every
program and erase, once or from then on, with nothing, half or all of it done; on the ring at reads
too, which littlefs-python has no way to let fail.

A violation is an acknowledged record that is lost or another, a number given out twice, an
exception other than JournalError, a journal that does not go on once the flash works again.
"""

import itertools
import random
import traceback

from evmeter.ledger import StoreError
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ring import RingStore
from evmeter.ledger.segments import SegmentStore
from evmeter_tools.faults.life import Device, OnLittlefs, OnRing, Told, wrong_frames, wrong_small
from evmeter_tools.faults.power_cut import judge
from evmeter_tools.faults.result import Control, Result

_APPENDS = 30
_EIO, _ENOSPC = 5, 28
# what a sector that was passed over leaves
_ALLOWED = (" damaged segments",)


def _attempt(result, function, *args):
    try:
        function(*args)
    except JournalError:
        result.counts["errors that were reported"] += 1


def _live(result, life, told, appends):
    """A life in which errors are reported and work goes on."""
    for number in range(appends):
        _attempt(result, life.append, told)
        if number % 3 == 0:
            _attempt(result, life.save, told)
        if number % 5 == 0:
            _attempt(result, life.confirm, told)


def _trial(result, device, image, fault, appends):
    at, error, for_good, done, reads_fail = fault
    life, told = device.live(image, {}), Told()
    flash = life.flash
    life.journal.open()
    flash.fail_at, flash.error, flash.for_good, flash.done = at, error, for_good, done
    flash.reads_fail = reads_fail
    _live(result, life, told, appends)
    flash.fail_at = None
    corrupt, missing = wrong_frames(life, told)
    wrong = corrupt + missing + wrong_small(life, told)
    before = told.last
    _live(result, life, told, 5)
    if told.last < before + 4:
        wrong.append("it does not go on")
    values = life.nvs.values
    return wrong + [text for text in judge(bytes(flash.image), values, told, device)
                    if not text.endswith(_ALLOWED)]


class _Swallows(RingStore):
    """A wrong design: an error of the flash is not reported."""

    def append(self, seq, frame, length):
        try:
            super().append(seq, frame, length)
        except StoreError:
            return


class _SwallowsToo(SegmentStore):
    """A wrong design: an error of the flash is not reported."""

    def append(self, seq, frame, length):
        try:
            super().append(seq, frame, length)
        except StoreError:
            return


class _KeepsNumber(Journal):
    """A wrong design: an append that failed has used up its number."""

    def append(self, kind, body, **head):
        try:
            return super().append(kind, body, **head)
        except JournalError:
            self.next_seq += 1
            raise


class _SmallOnesSwallowed(SegmentStore):
    """A wrong design: an error at a small file is not reported."""

    def write_small(self, name, body):
        try:
            super().write_small(name, body)
        except StoreError:
            return


class _DoesNotLook(RingStore):
    """A wrong design: what was programmed is not read back."""

    def open(self):
        super().open()
        self._sectors.program = self._program

    def _program(self, block, at, data):
        try:
            self._sectors._flash.writeblocks(block, data, at)
        except OSError:
            return


_WRONG = {
    "": (Device(OnLittlefs(_SwallowsToo)), Device(OnLittlefs(_SmallOnesSwallowed)),
         Device(OnLittlefs(), _KeepsNumber)),
    "-ring": (Device(OnRing(_Swallows)), Device(OnRing(_DoesNotLook)),
              Device(OnRing(), _KeepsNumber)),
}


def _campaign(result, device, trials, rng, appends, progress=None):
    image = device.blank_image()
    life = device.live(image, {})
    life.work(Told(), appends)
    faults = list(itertools.product(range(life.flash.operations), (_EIO, _ENOSPC), (False, True),
                                    (0, 1, 2), (False,)))
    if device.stores.name:
        faults += itertools.product(range(life.flash.reads), (_EIO,), (False, True), (0,), (True,))
    rng.shuffle(faults)
    for fault in faults[:trials]:
        if result.settled:
            return
        result.trials += 1
        result.counts["faults at reads"] += fault[-1]
        try:
            wrong = _trial(result, device, image, fault, appends)
        except Exception:  # whatever gets out is what is looked for
            wrong = [traceback.format_exc().strip().replace("\n", " / ")]
        for text in wrong:
            result.wrong("%s: %s" % (fault, text))
        if progress:
            progress(result.trials, min(trials, len(faults)))


def run(trials=4000, seed=7, progress=None, appends=_APPENDS, control_trials=150, stores=None):
    """At most `trials` of all faults. `stores`: OnLittlefs (default) or OnRing."""
    stores = stores or OnLittlefs()
    result = Result("hostile-flash" + stores.name)
    _campaign(result, Device(stores), trials, random.Random(seed), appends, progress)
    for device in _WRONG[stores.name]:
        tried = Control()
        _campaign(tried, device, control_trials, random.Random(seed), appends)
        result.controls[device.what_is_wrong()] = bool(tried.violations)
    return result
