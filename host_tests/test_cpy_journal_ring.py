"""`evmeter journal` on an image of the ring of sectors."""

import json

import pytest

from evmeter.ledger import journal as frames
from evmeter.ledger import ring_scan
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ring import RingStore
from evmeter_tools.faults.ram_flash import BLOCK_BYTES, RamFlash
from evmeter_tools.journal import image as images
from evmeter_tools.journal import words
from evmeter_tools.journal.scan import scan
from fakes.memory_store import MemoryNvs

_BLOCKS = 16
_FIRST = 4  # sectors of small files before it


def _payload(seq):
    return json.dumps({"v": 1, "ts": 1800000000 + seq, "tq": "I", "k": "0011223344556677",
                       "seq": seq, "sid": "", "ev": "boot", "pad": "x" * (seq * 97 % 700)})


class _Device:
    def __init__(self, count):
        self.flash, self.nvs = RamFlash(_BLOCKS), MemoryNvs()
        ring_scan.lay(self.flash)
        self.start()
        for _ in range(count):
            self.append()
        self.journal.confirm(count - 2)
        self.journal.save_cursor()

    def start(self):
        self.journal = Journal(RingStore(lambda: self.flash), self.nvs, lambda kind, text: {})
        self.journal.open()

    def append(self):
        self.journal.append(frames.EVT, _payload(self.journal.next_seq).encode())


def _scan(tmp_path, data, nvs=None):
    path = tmp_path / "flash.img"
    path.write_bytes(data)
    report = scan(images.open_image(path), nvs)
    assert path.read_bytes() == data
    return report


def _texts(report):
    return " / ".join([words.fault_text(fault) for fault in report.faults] + report.notes)


@pytest.mark.parametrize("count", [3, 30, 200])
def test_every_entry_is_shown(tmp_path, count):
    device = _Device(30)
    for _ in range(count - 30):
        device.append()
        device.journal.confirm(device.journal.next_seq - 2)
    report = _scan(tmp_path, bytes(device.flash.image), device.nvs)
    assert report.ok, _texts(report)
    last = max(count, 30)
    assert report.entries[-1].seq == last
    assert report.cursor is not None
    for entry in report.entries:
        assert entry.payload.decode() == _payload(entry.seq)
    assert [entry.seq for entry in report.entries] == list(
        range(report.entries[0].seq, last + 1))


def test_an_append_that_a_power_cut_tore_is_no_fault(tmp_path):
    device = _Device(10)
    device.flash.cut_at, device.flash.tear = 0, 1
    with pytest.raises(JournalError):
        device.append()
    report = _scan(tmp_path, bytes(device.flash.image), device.nvs)
    assert report.ok, _texts(report)
    assert "interrupted" in _texts(report)
    device.flash = RamFlash(_BLOCKS, device.flash.image)
    device.start()
    device.append()
    report = _scan(tmp_path, bytes(device.flash.image), device.nvs)
    assert report.ok and [entry.seq for entry in report.entries] == list(range(1, 12))


def test_damage_is_told_and_what_lies_behind_it_is_shown(tmp_path):
    device = _Device(40)
    data = bytearray(device.flash.image)
    data[_FIRST * BLOCK_BYTES + 200] ^= 4  # in frame 1 or 2
    report = _scan(tmp_path, bytes(data), device.nvs)
    assert "CRC wrong" in _texts(report) or "missing" in _texts(report)
    assert len(report.entries) == 39
    data = bytearray(device.flash.image)
    data[_FIRST * BLOCK_BYTES + BLOCK_BYTES : (_FIRST + 2) * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    report = _scan(tmp_path, bytes(data), device.nvs)
    assert not report.ok and "missing" in _texts(report)
    report = _scan(tmp_path, bytes(device.flash.image[: 6 * BLOCK_BYTES]), device.nvs)
    assert "truncated" in _texts(report)


def test_the_newest_frames_missing_are_told_by_the_second_store(tmp_path):
    device = _Device(40)
    image = bytes(device.flash.image)
    device.append()
    device.append()
    assert _scan(tmp_path, image, None).ok
    assert "another than the second store says" in _texts(_scan(tmp_path, image, device.nvs))


@pytest.mark.parametrize("refused", [(), (4, 31)])
def test_what_was_kept_because_the_backend_refused_it_is_no_gap(tmp_path, refused):
    device = _Device(40)
    device.journal.confirm(38, (4, 31), refused)
    for _ in range(160):
        device.append()
        device.journal.confirm(device.journal.next_seq - 2)
    device.journal.save_cursor()
    image = bytes(device.flash.image)
    report = _scan(tmp_path, image, device.nvs)
    assert report.ok, _texts(report)
    seqs = [entry.seq for entry in report.entries]
    assert set(refused) == {4, 31} & set(seqs)
    assert ("the backend refused them: 4" in _texts(report)) == bool(refused)
    if refused:  # without the list of them, they could have been taken out
        device.journal._store.write_small("refused", b"")
        report = _scan(tmp_path, bytes(device.flash.image), device.nvs)
        assert not report.ok and "are missing" in _texts(report)


def test_a_frame_that_could_not_be_read_back_is_there_twice_and_shown_once(tmp_path):
    device = _Device(10)
    device.flash.fail_at, device.flash.reads_fail = 0, True
    device.append()
    device.flash.fail_at = None
    device.append()
    assert device.journal._store.segments[-1] == 11
    device.start()
    assert device.journal.faults == []
    report = _scan(tmp_path, bytes(device.flash.image), device.nvs)
    assert report.ok and "frame 11 is there twice" in _texts(report), _texts(report)
    assert [entry.seq for entry in report.entries] == list(range(1, 13))
