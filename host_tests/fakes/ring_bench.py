"""A ring of sectors on flash in memory, for the tests of the ring."""

from evmeter.ledger import journal as frames
from evmeter.ledger import ring_scan
from evmeter.ledger.journal import Journal
from evmeter.ledger.ring import RingStore
from fakes.nor_flash import NorSectors

BLOCKS = 10  # six of them for frames
BUFFER = bytearray(frames.MAX_PAYLOAD)
FLASH = NorSectors(BLOCKS)  # one for all: the heap is small


def nothing(kind, payload):
    return {}


def formatted():
    FLASH.wipe()
    ring_scan.lay(FLASH)
    return FLASH


def journal_on(flash, nvs):
    journal = Journal(RingStore(lambda: flash), nvs, nothing)
    journal.open()
    return journal


def store_on(flash):
    store = RingStore(lambda: flash)
    store.open()
    return store


def read(journal, seq):
    kind, length = journal.read(seq, BUFFER)
    return bytes(BUFFER[:length])


def payload_of(number):
    return b"%d" % number + b"." * (number * 61 % 900)
