"""What the ring keeps longest, and what it passes over."""

from evmeter.ledger import journal as frames
from evmeter.ledger import ring_scan
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ring import RingStore
from fakes.memory_store import MemoryNvs
from fakes.nor_flash import NorSectors
from support import raises

_FLASH = NorSectors(10)  # six of them for frames; one for all: the heap is small
_BUFFER = bytearray(frames.MAX_PAYLOAD)


def _formatted():
    _FLASH.wipe()
    ring_scan.lay(_FLASH)
    return _FLASH


def _journal(flash, nvs):
    journal = Journal(RingStore(lambda: flash), nvs, lambda kind, payload: {})
    journal.open()
    return journal


def _read(journal, seq):
    kind, length = journal.read(seq, _BUFFER)
    return bytes(_BUFFER[:length])


def _payload(number):
    return b"%d" % number + b"." * (number * 61 % 900)


def _refuse(journal, *seqs):
    journal.confirm(journal.next_seq - 1, seqs, seqs)
    journal.save_cursor()


def test_what_the_backend_refused_is_given_back_last():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    for number in range(1, 120):
        journal.append(frames.EVT, _payload(number))
        journal.confirm(number)
        if number == 20:
            _refuse(journal, 4, 19)
        if number % 10 == 0:
            journal.save_cursor()
            journal = _journal(flash, nvs)
            assert (journal.faults, journal.cursor) == ([], number)
    assert journal.refused == [4, 19]
    assert len(journal._store.segments) <= journal._store.capacity
    for seq in (4, 19, 117, 118, 119):
        assert _read(journal, seq) == _payload(seq)
    raises(JournalError, _read, journal, 60)
    while True:  # nothing more is confirmed: now they have to go, the older one first
        try:
            journal.append(frames.EVT, b"x" * 1900)
        except JournalError as error:
            assert "full" in str(error)
            break
    raises(JournalError, _read, journal, 4)
    raises(JournalError, _read, journal, 19)
    for seq in range(journal.cursor + 1, journal.next_seq):
        assert _read(journal, seq)
    assert flash.broken == []


def test_a_worn_sector_is_passed_over():
    flash, nvs = _formatted(), MemoryNvs()
    journal = _journal(flash, nvs)
    erase = flash.ioctl

    def worn(operation, argument):
        return 0 if operation == 6 and argument == 6 else erase(operation, argument)

    for number in range(1, 90):
        if number == 40:  # from now on its erase does nothing
            flash.ioctl = worn
        journal.append(frames.EVT, _payload(number))
        journal.confirm(number)
        if number > 60 and number % 9 == 0:
            journal = _journal(flash, nvs)
    flash.ioctl = erase
    assert 6 - journal._store._base not in [
        journal._store._block(first) for first in journal._store.segments]
    for seq in range(86, 90):
        assert _read(journal, seq) == _payload(seq)
