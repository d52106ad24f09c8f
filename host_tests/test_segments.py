import os

import host_flash
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.segments import SegmentStore, StoreError
from fakes.memory_store import MemoryNvs
from support import raises

_BLOCKS = 14
_BUFFER = bytearray(frames.MAX_PAYLOAD)


def _nothing(kind, payload):
    return {}


def _blank():
    for folder in ("build", "build/test-segments"):
        try:
            os.mkdir(folder)
        except OSError:
            continue
    path = "build/test-segments/flash.img"
    try:
        os.remove(path)
    except OSError:
        pass
    return host_flash.FlashFile(path, _BLOCKS)


def _formatted():
    flash = _blank()
    host_flash.mkfs(flash)
    SegmentStore.format(host_flash.mount(flash))
    return flash


def _store(flash):
    return SegmentStore(lambda: host_flash.mount(flash), reserve_blocks=4)


def _journal(flash, nvs):
    journal = Journal(_store(flash), nvs, _nothing)
    journal.open()
    return journal


def test_frames_survive_reboots_on_littlefs():
    flash, nvs = _formatted(), MemoryNvs()
    written = []
    for boot in range(4):
        journal = _journal(flash, nvs)
        assert journal.faults == []
        for number in range(5):
            payload = b"%d-%d" % (boot, number) + b"." * 250
            journal.append(frames.EVT, payload)
            written.append(payload)
    journal = _journal(flash, nvs)
    for seq in range(1, 21):
        kind, length = journal.read(seq, _BUFFER)
        assert bytes(_BUFFER[:length]) == written[seq - 1]
    # the segments go on after a reboot instead of each boot burning a block
    assert len(journal._store.segments) == 2


def test_a_full_flash_is_an_error_and_takes_nothing_away():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    count = 0
    try:
        while count < 200:
            journal.append(frames.EVT, b"x" * 1900)
            count += 1
    except JournalError:
        assert count > 8
    assert journal.next_seq == count + 1
    assert count < 200
    journal = _journal(flash, nvs)
    assert journal.faults == []
    assert journal.next_seq == count + 1
    journal.confirm(count)
    for _ in range(12):
        journal.append(frames.EVT, b"y" * 1900)
    assert journal.read(count + 12, _BUFFER) == (frames.EVT, 1900)


def test_small_files_are_replaced_whole_and_checked():
    flash = _formatted()
    store = _store(flash)
    store.open()
    assert store.read_small("session") is None
    store.write_small("session", b"a" * 96)
    assert store.read_small("session") == b"a" * 96
    store.write_small("session", b"b")
    store = _store(flash)
    store.open()
    assert store.read_small("session") == b"b"
    assert store.read_small("nothing") is None
    assert "97 bytes" in str(raises(StoreError, store.write_small, "session", b"c" * 97))
    with host_flash.mount(flash).open("/session", "wb") as file:
        file.write(b"damaged!")
    assert store.read_small("session") is None


def test_a_blank_and_a_foreign_flash_are_reported_and_left_alone():
    flash = _blank()
    message = str(raises(StoreError, _store(flash).open))
    assert "cannot be mounted" in message
    assert flash.programs == flash.erases == 0
    host_flash.mkfs(flash)
    before = flash.programs, flash.erases
    raises(StoreError, _store(flash).open)
    assert (flash.programs, flash.erases) == before


def test_a_write_that_fails_leaves_the_journal_usable():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    journal.append(frames.EVT, b"one")

    class Once:
        left = 1

    whole = flash.writeblocks

    def failing(block, buffer, offset=None):
        if Once.left:
            Once.left -= 1
            raise OSError(5)
        whole(block, buffer, offset)

    flash.writeblocks = failing
    try:
        journal.append(frames.EVT, b"two")
        seq = 2
    except JournalError:
        seq = journal.append(frames.EVT, b"two")
    assert seq == 2
    journal = _journal(flash, nvs)
    assert journal.faults == []
    assert journal.next_seq == 3
