"""Foreign flash, and flash that fails, under a journal on bare sectors."""

from evmeter.ledger import StoreError, foreign, ring_scan
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import JournalError
from evmeter.ledger.ring import RingStore
from fakes.memory_store import MemoryNvs
from fakes.ring_bench import BLOCKS, BUFFER, FLASH, formatted, journal_on, payload_of, read
from support import raises


def test_blank_and_foreign_flash_is_reported_and_left_alone():
    flash = FLASH
    flash.wipe()
    store = RingStore(lambda: flash)
    assert "no ring" in str(raises(StoreError, store.open))
    assert foreign.what(lambda: flash) == foreign.BLANK
    flash.sectors[7][4095] = 0
    assert foreign.what(lambda: flash) == "something else"
    for block in range(BLOCKS):
        flash.sectors[block][:9] = b"something"
    assert "no ring" in str(raises(StoreError, RingStore(lambda: flash).open))
    assert foreign.what(lambda: flash) == "something else"
    assert flash.programs == flash.erases == 0
    ring_scan.lay(flash)
    assert flash.erases == BLOCKS + 1
    assert journal_on(flash, MemoryNvs()).faults == []
    assert foreign.what(lambda: flash) == "a ring of sectors"
    flash.blocks = 9
    assert "laid on 10" in str(raises(StoreError, RingStore(lambda: flash).open))
    flash.blocks = 7
    assert "too few" in str(raises(StoreError, RingStore(lambda: flash).open))
    flash.blocks = BLOCKS


def test_an_older_ring_under_a_littlefs_is_not_opened():
    flash = formatted()
    journal_on(flash, MemoryNvs()).append(frames.EVT, b"old")
    for block in range(2):  # what a format writes
        flash.ioctl(6, block)
        flash.sectors[block][8:16] = b"littlefs"
    assert "a littlefs is there" in str(raises(StoreError, RingStore(lambda: flash).open))
    assert foreign.what(lambda: flash) == "a littlefs"
    flash.sectors[0][8] = 0  # in one of both
    assert "a littlefs is there" in str(raises(StoreError, RingStore(lambda: flash).open))


def test_a_failed_operation_is_told_and_the_journal_goes_on():
    for error in (5, 28):
        for done in (False, True):
            for fail in range(24):
                flash, nvs = formatted(), MemoryNvs()
                journal = journal_on(flash, nvs)
                flash.fail, flash.error, flash.done_all_the_same = fail, error, done
                for number in range(1, 15):
                    journal.append(frames.EVT, payload_of(number))  # tried again by the store
                flash.fail = None
                journal = journal_on(flash, nvs)
                assert journal.faults in ([], ["1 damaged segments"])
                for number in range(1, 15):
                    assert read(journal, number) == payload_of(number), (fail, number)


def test_flash_that_takes_nothing_any_more_is_told():
    flash, nvs = formatted(), MemoryNvs()
    journal = journal_on(flash, nvs)
    journal.append(frames.EVT, b"one")
    flash.fail, flash.for_good = 0, True
    for _ in range(9):
        assert "error 5" in str(raises(JournalError, journal.append, frames.EVT, b"two"))
        assert "error 5" in str(raises(JournalError, journal.save_small, "session", b"x"))
    assert journal.next_seq == 2 and read(journal, 1) == b"one"
    flash.fail = None
    assert journal.append(frames.EVT, b"two") == 2
    journal = journal_on(flash, nvs)
    assert journal.faults == []
    assert (read(journal, 1), read(journal, 2)) == (b"one", b"two")


def test_a_damaged_header_costs_no_frame():
    flash, nvs = formatted(), MemoryNvs()
    journal = journal_on(flash, nvs)
    for number in range(1, 9):
        journal.append(frames.EVT, b"z" * 1500)
    for at in (0, 5, 9, 15, 17, 31):
        flash.sectors[5][at] ^= 0x10
        journal = journal_on(flash, nvs)
        assert (journal.faults, journal._store.segments) == ([], [1, 3, 5, 7]), at
        flash.sectors[5][at] ^= 0x10
    for at in range(16, 32, 5):  # not the mark of a sector that was given back
        flash.sectors[5][at] ^= 1
        assert journal_on(flash, nvs)._store.segments == [1, 3, 5, 7]
    flash.sectors[5][3] ^= 1
    flash.sectors[5][99] ^= 1
    journal = journal_on(flash, nvs)
    assert journal.faults == ["1 damaged segments"]
    assert "damaged or missing" in str(raises(JournalError, journal.read, 4, BUFFER))
    assert read(journal, 5) == b"z" * 1500


def test_a_spoiled_place_takes_no_room_from_the_rest():
    flash, nvs = formatted(), MemoryNvs()
    journal = journal_on(flash, nvs)
    for number in range(1, 60):
        if number in (12, 14, 30):  # a power cut in the first frame of a sector, or in its erase
            flash.fail, flash.for_good = 0 if number == 14 else 1, True
            journal._store.start_segment()
            raises(JournalError, journal.append, frames.EVT, payload_of(number))
            flash.fail, flash.for_good = None, False
            journal = journal_on(flash, nvs)
            assert journal.faults == []
        journal.append(frames.EVT, payload_of(number))
        journal.confirm(number)
    assert read(journal, 59) == payload_of(59)
