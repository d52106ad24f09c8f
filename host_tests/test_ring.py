"""A journal on bare sectors."""

from evmeter.ledger import StoreError
from evmeter.ledger import journal as frames
from evmeter.ledger.journal import JournalError
from fakes.memory_store import MemoryNvs
from fakes.ring_bench import formatted, journal_on, payload_of, read, store_on
from support import raises


def test_frames_survive_reboots_in_the_same_sector():
    flash, nvs = formatted(), MemoryNvs()
    for boot in range(4):
        journal = journal_on(flash, nvs)
        assert journal.faults == []
        for _ in range(3):
            journal.append(frames.EVT, b"%d" % journal.next_seq + b"." * 250)
        erases = flash.erases
    assert flash.erases == erases  # a boot erases nothing
    journal = journal_on(flash, nvs)
    assert len(journal._store.segments) == 1
    for seq in range(1, 13):
        assert read(journal, seq) == b"%d" % seq + b"." * 250
    assert flash.broken == []


def test_the_ring_goes_round_and_loses_nothing_that_is_not_confirmed():
    flash, nvs = formatted(), MemoryNvs()
    journal = journal_on(flash, nvs)
    for number in range(1, 160):
        journal.append(frames.EVT, payload_of(number))
        if number % 4 == 0:
            journal.confirm(number - 3)
        if number % 7 == 0:
            journal.save_small("session", b"%d" % number * 9)
        if number % 40 == 0:
            journal = journal_on(flash, nvs)
            assert journal.faults == []
            for seq in range(journal.cursor + 1, number + 1):
                assert read(journal, seq) == payload_of(seq)
    assert journal.load_small("session") == b"154" * 9
    assert flash.broken == []
    assert flash.erases < 40


def test_a_full_ring_is_an_error_and_takes_nothing_away():
    flash, nvs = formatted(), MemoryNvs()
    journal = journal_on(flash, nvs)
    text = ""
    while not text:
        try:
            journal.append(frames.EVT, b"x" * 1900)
        except JournalError as error:
            text = str(error)
    assert "full" in text
    count = journal.next_seq - 1
    assert count == 12
    journal = journal_on(flash, nvs)
    assert journal.faults == [] and journal.next_seq == count + 1
    assert read(journal, 1) == b"x" * 1900
    journal.confirm(count)
    for _ in range(12):
        journal.append(frames.EVT, b"y" * 1900)
    assert read(journal_on(flash, nvs), count + 12) == b"y" * 1900


def test_small_files_are_replaced_whole_and_checked():
    flash = formatted()
    store = store_on(flash)
    assert store.read_small("session") is None
    for number in range(200):
        store.write_small("session", b"%d" % number * 20)
        if number % 9 == 0:
            store.write_small("cursor", b"%04d" % number)
    assert 3 < flash.erases < 12
    again = store_on(flash)
    assert again.read_small("session") == b"199" * 20
    assert again.read_small("cursor") == b"0198"
    assert again.read_small("nothing") is None
    again.write_small("session", b"")
    assert store_on(flash).read_small("session") is None
    assert store_on(flash).read_small("cursor") == b"0198"
    assert "97 bytes" in str(raises(StoreError, store.write_small, "session", b"c" * 97))
    raises(StoreError, store.write_small, "other", b"c")
    assert flash.broken == []
