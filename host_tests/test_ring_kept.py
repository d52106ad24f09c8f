"""What the ring keeps longest, and what it passes over."""

from evmeter.ledger import journal as frames
from evmeter.ledger.journal import JournalError
from fakes.memory_store import MemoryNvs
from fakes.ring_bench import formatted, journal_on, payload_of, read
from support import raises


def _refuse(journal, *seqs):
    journal.confirm(journal.next_seq - 1, seqs, seqs)
    journal.save_cursor()


def test_what_the_backend_refused_is_given_back_last():
    flash, nvs = formatted(), MemoryNvs()
    journal = journal_on(flash, nvs)
    for number in range(1, 120):
        journal.append(frames.EVT, payload_of(number))
        journal.confirm(number)
        if number == 20:
            _refuse(journal, 4, 19)
        if number % 10 == 0:
            journal.save_cursor()
            journal = journal_on(flash, nvs)
            assert (journal.faults, journal.cursor) == ([], number)
    assert journal.refused == [4, 19]
    assert len(journal._store.segments) <= journal._store.capacity
    for seq in (4, 19, 117, 118, 119):
        assert read(journal, seq) == payload_of(seq)
    raises(JournalError, read, journal, 60)
    while True:  # nothing more is confirmed: now they have to go, the older one first
        try:
            journal.append(frames.EVT, b"x" * 1900)
        except JournalError as error:
            assert "full" in str(error)
            break
    raises(JournalError, read, journal, 4)
    raises(JournalError, read, journal, 19)
    for seq in range(journal.cursor + 1, journal.next_seq):
        assert read(journal, seq)
    assert flash.broken == []


def test_a_worn_sector_is_passed_over():
    flash, nvs = formatted(), MemoryNvs()
    journal = journal_on(flash, nvs)
    erase = flash.ioctl

    def worn(operation, argument):
        return 0 if operation == 6 and argument == 6 else erase(operation, argument)

    for number in range(1, 90):
        if number == 40:  # from now on its erase does nothing
            flash.ioctl = worn
        journal.append(frames.EVT, payload_of(number))
        journal.confirm(number)
        if number > 60 and number % 9 == 0:
            journal = journal_on(flash, nvs)
    flash.ioctl = erase
    assert 6 - journal._store._base not in [
        journal._store._block(first) for first in journal._store.segments]
    for seq in range(86, 90):
        assert read(journal, seq) == payload_of(seq)
