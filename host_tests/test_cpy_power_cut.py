"""Power cuts at every flash operation of the journal, on the real littlefs, torn ones included."""

import pytest

import host_flash
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.segments import SegmentStore
from evmeter_tools.faults.ram_flash import RamFlash
from fakes.memory_store import MemoryNvs

_BLOCKS = 24
_APPENDS = 24


def _account(kind, payload):
    return {"page": int(payload[:6])} if kind == frames.REC else {}


def _payload(number):
    return b"%06d" % number + b"." * (number * 37 % 700)


def _image():
    flash = RamFlash(_BLOCKS)
    host_flash.mkfs(flash)
    SegmentStore.format(host_flash.mount(flash))
    return bytes(flash.image)


class _Life:
    """One life of a device: the flash as it was left, and the second store."""

    def __init__(self, image, nvs, journal_class=Journal):
        self.flash = RamFlash(_BLOCKS, image)
        self.nvs = nvs
        store = SegmentStore(lambda: host_flash.mount(self.flash), reserve_blocks=4)
        self.journal = journal_class(store, nvs, _account)

    def work(self, acknowledged, appends):
        """Open, append, checkpoint, confirm; ends early at the cut."""
        self.journal.open()
        for _ in range(appends):
            number = self.journal.next_seq
            self.journal.append(frames.REC, _payload(number), page=number)
            acknowledged.append(number)
            if number % 3 == 0:
                self.journal.save_small("session", b"%06d" % number)
            if number % 5 == 0:
                self.journal.confirm(number - 4)
                self.journal.save_cursor()


def _judge(image, nvs, acknowledged):
    """Violations after a cut: what a fresh boot finds against what was acknowledged."""
    life = _Life(image, nvs)
    journal = life.journal
    journal.open()
    wrong = list(journal.faults)
    last = acknowledged[-1] if acknowledged else 0
    if journal.next_seq not in (last + 1, last + 2):
        wrong.append("next is %d after %d" % (journal.next_seq, last))
    if journal.page != journal.next_seq - 1:
        wrong.append("page %d" % journal.page)
    if journal.cursor > last:
        wrong.append("cursor %d" % journal.cursor)
    buffer = bytearray(frames.MAX_PAYLOAD)
    for seq in range(max(1, journal._store.segments[0] if journal._store.segments else 1),
                     journal.next_seq):
        try:
            _, length = journal.read(seq, buffer)
            if bytes(buffer[:length]) != _payload(seq):
                wrong.append("frame %d is another" % seq)
        except JournalError as error:
            wrong.append(str(error))
    return wrong, bytes(life.flash.image)


class _CutNvs(MemoryNvs):
    """A second store that dies with the flash."""

    def __init__(self, values):
        super().__init__()
        self._values = dict(values)
        self.flash = None

    def set_blob(self, key, value):
        if self.flash and self.flash.dead:
            raise OSError(5)
        super().set_blob(key, value)


def _cut(image, values, cut_at, tear, journal_class=Journal, appends=_APPENDS):
    """Live until the cut; returns (image, values of the second store, acknowledged, was cut)."""
    nvs = _CutNvs(values)
    life = _Life(image, nvs, journal_class)
    nvs.flash = life.flash
    life.flash.cut_at, life.flash.tear = cut_at, tear
    acknowledged = []
    try:
        life.work(acknowledged, appends)
    except (JournalError, OSError):
        assert life.flash.dead
    return bytes(life.flash.image), dict(nvs._values), acknowledged, life.flash.dead


@pytest.fixture(scope="module")
def blank():
    return _image()


@pytest.mark.parametrize("tear", [0, 1, 2])
def test_a_cut_at_any_operation_loses_doubles_and_reuses_nothing(blank, tear):
    cuts = 0
    while True:
        image, values, acknowledged, was_cut = _cut(blank, {}, cuts, tear)
        if not was_cut:
            break
        nvs = _CutNvs(values)
        wrong, _ = _judge(image, nvs, acknowledged)
        assert not wrong, (cuts, tear, wrong)
        cuts += 1
    assert cuts > 100


def test_a_second_cut_while_recovering_changes_nothing_of_that(blank):
    trials = 0
    for first in range(20, 120, 9):
        image, values, acknowledged, _ = _cut(blank, {}, first, 1)
        for second in range(14):
            later, held, more, was_cut = _cut(image, values, second, second % 3, appends=2)
            wrong, _ = _judge(later, _CutNvs(held), acknowledged + more)
            assert not wrong, (first, second, wrong)
            trials += 1
            if not was_cut:
                break
    assert trials > 60


class _HeadFirst(Journal):
    """A wrong design: the second store hears of a frame before the flash has it."""

    def append(self, kind, payload, **head):
        kept = self.next_seq
        self.next_seq = kept + 1
        self._save_head()
        self.next_seq = kept
        return super().append(kind, payload, **head)


class _NoHead(Journal):
    """A wrong design: the second store is told nothing."""

    def _save_head(self):
        return None


@pytest.mark.parametrize("design", [_HeadFirst, _NoHead])
def test_the_campaign_catches_wrong_designs(blank, design):
    caught = 0
    for cut in range(30, 90, 7):
        image, values, acknowledged, _ = _cut(blank, {}, cut, 0, design)
        wrong, _ = _judge(image, _CutNvs(values), acknowledged)
        caught += bool(wrong)
    assert caught > 2
