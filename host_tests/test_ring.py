from evmeter.ledger import StoreError, foreign, ring_scan
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ring import RingStore
from fakes.memory_store import MemoryNvs
from fakes.nor_flash import NorSectors
from support import raises

_BLOCKS = 10  # six of them for frames
_BUFFER = bytearray(frames.MAX_PAYLOAD)
_FLASH = NorSectors(_BLOCKS)  # one for all: the heap is small


def _nothing(kind, payload):
    return {}


def _formatted():
    _FLASH.wipe()
    ring_scan.lay(_FLASH)
    return _FLASH


def _journal(flash, nvs):
    journal = Journal(RingStore(lambda: flash), nvs, _nothing)
    journal.open()
    return journal


def _store(flash):
    store = RingStore(lambda: flash)
    store.open()
    return store


def _read(journal, seq):
    kind, length = journal.read(seq, _BUFFER)
    return bytes(_BUFFER[:length])


def _payload(number):
    return b"%d" % number + b"." * (number * 61 % 900)


def test_frames_survive_reboots_in_the_same_sector():
    flash, nvs = _formatted(), MemoryNvs()
    for boot in range(4):
        journal = _journal(flash, nvs)
        assert journal.faults == []
        for _ in range(3):
            journal.append(frames.EVT, b"%d" % journal.next_seq + b"." * 250)
        erases = flash.erases
    assert flash.erases == erases  # a boot erases nothing
    journal = _journal(flash, nvs)
    assert len(journal._store.segments) == 1
    for seq in range(1, 13):
        assert _read(journal, seq) == b"%d" % seq + b"." * 250
    assert flash.broken == []


def test_the_ring_goes_round_and_loses_nothing_that_is_not_confirmed():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    for number in range(1, 160):
        journal.append(frames.EVT, _payload(number))
        if number % 4 == 0:
            journal.confirm(number - 3)
        if number % 7 == 0:
            journal.save_small("session", b"%d" % number * 9)
        if number % 40 == 0:
            journal = _journal(flash, nvs)
            assert journal.faults == []
            for seq in range(journal.cursor + 1, number + 1):
                assert _read(journal, seq) == _payload(seq)
    assert journal.load_small("session") == b"154" * 9
    assert flash.broken == []
    assert flash.erases < 40


def test_a_full_ring_is_an_error_and_takes_nothing_away():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    text = ""
    while not text:
        try:
            journal.append(frames.EVT, b"x" * 1900)
        except JournalError as error:
            text = str(error)
    assert "full" in text
    count = journal.next_seq - 1
    assert count == 12
    journal = _journal(flash, nvs)
    assert journal.faults == [] and journal.next_seq == count + 1
    assert _read(journal, 1) == b"x" * 1900
    journal.confirm(count)
    for _ in range(12):
        journal.append(frames.EVT, b"y" * 1900)
    assert _read(_journal(flash, nvs), count + 12) == b"y" * 1900


def test_small_files_are_replaced_whole_and_checked():
    flash = _formatted()
    store = _store(flash)
    assert store.read_small("session") is None
    for number in range(200):
        store.write_small("session", b"%d" % number * 20)
        if number % 9 == 0:
            store.write_small("cursor", b"%04d" % number)
    assert 3 < flash.erases < 12
    again = _store(flash)
    assert again.read_small("session") == b"199" * 20
    assert again.read_small("cursor") == b"0198"
    assert again.read_small("nothing") is None
    again.write_small("session", b"")
    assert _store(flash).read_small("session") is None
    assert _store(flash).read_small("cursor") == b"0198"
    assert "97 bytes" in str(raises(StoreError, store.write_small, "session", b"c" * 97))
    raises(StoreError, store.write_small, "other", b"c")
    assert flash.broken == []


def test_blank_and_foreign_flash_is_reported_and_left_alone():
    flash = _FLASH
    flash.wipe()
    store = RingStore(lambda: flash)
    assert "no ring" in str(raises(StoreError, store.open))
    assert foreign.what(lambda: flash) == foreign.BLANK
    flash.sectors[7][4095] = 0
    assert foreign.what(lambda: flash) == "something else"
    for block in range(_BLOCKS):
        flash.sectors[block][:9] = b"something"
    assert "no ring" in str(raises(StoreError, RingStore(lambda: flash).open))
    assert foreign.what(lambda: flash) == "something else"
    assert flash.programs == flash.erases == 0
    ring_scan.lay(flash)
    assert flash.erases == _BLOCKS + 1
    assert _journal(flash, MemoryNvs()).faults == []
    assert foreign.what(lambda: flash) == "a ring of sectors"
    flash.blocks = 9
    assert "laid on 10" in str(raises(StoreError, RingStore(lambda: flash).open))
    flash.blocks = 7
    assert "too few" in str(raises(StoreError, RingStore(lambda: flash).open))
    flash.blocks = _BLOCKS


def test_an_older_ring_under_a_littlefs_is_not_opened():
    flash = _formatted()
    _journal(flash, MemoryNvs()).append(frames.EVT, b"old")
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
                flash, nvs = _formatted(), MemoryNvs()
                journal = _journal(flash, nvs)
                flash.fail, flash.error, flash.done_all_the_same = fail, error, done
                for number in range(1, 15):
                    journal.append(frames.EVT, _payload(number))  # tried again by the store
                flash.fail = None
                journal = _journal(flash, nvs)
                assert journal.faults in ([], ["1 damaged segments"])
                for number in range(1, 15):
                    assert _read(journal, number) == _payload(number), (fail, number)


def test_flash_that_takes_nothing_any_more_is_told():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    journal.append(frames.EVT, b"one")
    flash.fail, flash.for_good = 0, True
    for _ in range(9):
        assert "error 5" in str(raises(JournalError, journal.append, frames.EVT, b"two"))
        assert "error 5" in str(raises(JournalError, journal.save_small, "session", b"x"))
    assert journal.next_seq == 2 and _read(journal, 1) == b"one"
    flash.fail = None
    assert journal.append(frames.EVT, b"two") == 2
    journal = _journal(flash, nvs)
    assert journal.faults == []
    assert (_read(journal, 1), _read(journal, 2)) == (b"one", b"two")


def test_a_damaged_header_costs_no_frame():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    for number in range(1, 9):
        journal.append(frames.EVT, b"z" * 1500)
    for at in (0, 5, 9, 15, 17, 31):
        flash.sectors[5][at] ^= 0x10
        journal = _journal(flash, nvs)
        assert (journal.faults, journal._store.segments) == ([], [1, 3, 5, 7]), at
        flash.sectors[5][at] ^= 0x10
    for at in range(16, 32, 5):  # not the mark of a sector that was given back
        flash.sectors[5][at] ^= 1
        assert _journal(flash, nvs)._store.segments == [1, 3, 5, 7]
    flash.sectors[5][3] ^= 1
    flash.sectors[5][99] ^= 1
    journal = _journal(flash, nvs)
    assert journal.faults == ["1 damaged segments"]
    assert "damaged or missing" in str(raises(JournalError, journal.read, 4, _BUFFER))
    assert _read(journal, 5) == b"z" * 1500


def test_a_spoiled_place_takes_no_room_from_the_rest():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    for number in range(1, 60):
        if number in (12, 14, 30):  # a power cut in the first frame of a sector, or in its erase
            flash.fail, flash.for_good = 0 if number == 14 else 1, True
            journal._store.start_segment()
            raises(JournalError, journal.append, frames.EVT, _payload(number))
            flash.fail, flash.for_good = None, False
            journal = _journal(flash, nvs)
            assert journal.faults == []
        journal.append(frames.EVT, _payload(number))
        journal.confirm(number)
    assert _read(journal, 59) == _payload(59)
