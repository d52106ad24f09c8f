# journal.py heap|cut lfs|ring right|wrong EACH: the journal on MicroPython's littlefs or a ring.
#
# heap: sign and append with the heap filled up to all but a few bytes, EACH times 32 bytes more at
# each step.
# cut: the power goes at every program and erase, with nothing, half or nearly all of it done.
# wrong: with a wrong design, which must be noticed. The last line is JSON.
import asyncio
import gc
import json
import sys

import host_flash
from evmeter.ledger import journal as frames
from evmeter.ledger import ring_scan
from evmeter.ledger.journal import Journal, JournalError
from evmeter.ledger.ledger import Ledger, account
from evmeter.ledger.ring import RingStore
from evmeter.ledger.segments import SegmentStore
from evmeter.ledger.signer import SoftwareSigner
from evmeter.system.clock import Clock
from evmeter.system.forget import forget

BLOCKS = 14
BLOCK_BYTES = 4096
STEP = 32
LEAST = 32  # of what the heap is filled with
APPENDS = 14
BUFFER = bytearray(frames.MAX_PAYLOAD)


class Flash:
    """NOR flash in memory; `left` operations until the power goes, torn as `tear` says."""

    def __init__(self):
        self.image = bytearray(BLOCKS * BLOCK_BYTES)
        self.left = -1
        self.tear = 0
        self.dead = False

    def _take(self, length):
        if self.dead:
            raise OSError(5)
        self.left -= 1
        if self.left == -1:
            self.dead = True
            return (0, length // 2, length - 1)[self.tear]
        return length

    def readblocks(self, block, buffer, offset=0):
        if self.dead:
            raise OSError(5)
        at = block * BLOCK_BYTES + offset
        buffer[:] = memoryview(self.image)[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=0):
        at = block * BLOCK_BYTES + offset
        image = self.image
        for index in range(self._take(len(buffer))):
            image[at + index] &= buffer[index]
        if self.dead:
            raise OSError(5)

    def ioctl(self, operation, argument):
        if operation == 4:
            return BLOCKS
        if operation == 5:
            return BLOCK_BYTES
        if operation == 6:
            at = argument * BLOCK_BYTES
            for index in range(at, at + self._take(BLOCK_BYTES)):
                self.image[index] = 0xFF
            if self.dead:
                raise OSError(5)
        return 0


class Nvs:
    def __init__(self, flash):
        self.flash = flash
        self.values = {}

    def get_blob(self, key, buffer):
        if key not in self.values:
            raise OSError(0x1102)
        buffer[:] = self.values[key]
        return len(buffer)

    def set_blob(self, key, value):
        if self.flash.dead:
            raise OSError(5)
        self.values[key] = bytes(value)

    def commit(self):
        return None


class HeadFirst(Journal):
    """A wrong design: the second store hears of a frame before the flash has it."""

    def append(self, kind, body, **head):
        kept = self.next_seq
        self.next_seq = kept + 1
        self._save_head()
        self.next_seq = kept
        return super().append(kind, body, **head)


class Idle:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return False


def blank(flash, ring):
    for at in range(0, len(flash.image), BLOCK_BYTES):
        flash.image[at : at + BLOCK_BYTES] = b"\xff" * BLOCK_BYTES
    if ring:
        ring_scan.lay(flash)
    else:
        host_flash.mkfs(flash)
        SegmentStore.format(host_flash.mount(flash))


def journal_on(flash, nvs, ring, design):
    store = RingStore(lambda: flash) if ring else SegmentStore(lambda: host_flash.mount(flash), 4)
    journal = design(store, nvs, account)
    journal.open()
    return journal


def payload(seq):
    return b'{"seq": %d, "pad": "%s"}' % (seq, b"x" * (seq * 337 % 900))


def faults_of(flash, nvs, ring, last):
    """What a boot finds wrong, where frames up to `last` were acknowledged."""
    journal = journal_on(flash, nvs, ring, Journal)
    wrong = list(journal.faults)
    if not last < journal.next_seq <= last + 2:
        wrong.append("next is %d after %d" % (journal.next_seq, last))
    previous = None
    for seq in range(max(1, journal.cursor, journal.next_seq - 8), journal.next_seq):
        try:
            _, length = journal.read(seq, BUFFER)
            chained, own = bytes(journal._frame[9:25]), journal._digest(length)
            if json.loads(bytes(memoryview(BUFFER)[:length]))["seq"] != seq:
                wrong.append("frame %d is another" % seq)
            if previous is not None and chained != previous:
                wrong.append("frame %d does not follow" % seq)
            previous = own
        except (JournalError, ValueError) as error:
            wrong.append("frame %d: %s" % (seq, error))
    return wrong


def fill(left):
    """Objects that leave about `left` bytes of heap free, in pieces of any size."""
    held = None
    size = 65536
    gc.collect()
    while size >= LEAST:
        while gc.mem_free() > left + size + 64:
            try:
                held = (held, bytearray(size))  # a chain: a list would need one large piece
            except MemoryError:
                break
        size //= 2
    return held


def attempt(function, *args):
    """1: done, 0: no memory, -1: refused."""
    try:
        function(*args)
        return 1
    except MemoryError:
        return 0
    except JournalError:
        return -1


def note(result, left, text):
    result["violations"] += 1
    if result["violations"] < 6:
        result["texts"].append("%d bytes: %s" % (left, text))


def sweep(ring, design, signed, result):
    flash = Flash()
    blank(flash, ring)
    nvs = Nvs(flash)
    journal = journal_on(flash, nvs, ring, design)
    signer = SoftwareSigner(bytes(range(1, 33)), bytes)
    ledger = Ledger(journal, signer, Clock(), Idle(), lambda: ({}, 1000, "meter"))

    def sign_and_append():
        asyncio.run(ledger.log("sweep", "", 1000, {"pad": "x" * 300}))

    def prepared():
        if signed:
            return (sign_and_append,)
        return (journal.append, frames.EVT, payload(journal.next_seq))

    attempt(*prepared())
    through = left = 0
    while through < 12 and left < 24 * 1024:
        if ring:
            forget("evmeter.ledger", "ring_scan")  # as after the boot
        what = prepared()
        last = journal.next_seq - 1
        held = fill(left)
        done = attempt(*what)
        del held
        what = None
        gc.collect()
        result["trials"] += 1
        left += STEP
        result["refused"] += done == 0
        through = through + 1 if done == 1 else 0
        if done == 0:  # as a boot would find it now
            for text in faults_of(flash, nvs, ring, last):
                note(result, left, "at once: " + text)
        for _ in range(3):  # with memory again; the first may only tell what is there
            if attempt(*prepared()) == 1:
                break
        else:
            note(result, left, "it does not go on")
        journal.confirm(journal.next_seq - 1)
        for text in faults_of(flash, nvs, ring, journal.next_seq - 1):
            note(result, left, text)
        gc.collect()


def heap(ring, design):
    result = {"trials": 0, "refused": 0, "violations": 0, "texts": []}
    for signed in (True, False):
        sweep(ring, design, signed, result)
    return result


def cut(ring, design):
    flash = Flash()
    blank(flash, ring)
    fresh = bytes(flash.image)
    trials = violations = at = 0
    wrong = []
    while True:
        for tear in range(3):
            flash.image[:] = fresh
            nvs = Nvs(flash)
            flash.left, flash.tear = at, tear
            last = 0
            try:
                journal = journal_on(flash, nvs, ring, design)
                for _ in range(APPENDS):
                    journal.append(frames.EVT, payload(journal.next_seq))
                    last = journal.next_seq - 1
                    journal.save_small("session", b"%d" % last * 9)
                    if last % 3 == 0:
                        journal.confirm(last - 2)
                        journal.save_cursor()
                whole = True
            except JournalError:
                whole = False
            flash.left, flash.dead = -1, False
            trials += 1
            for text in faults_of(flash, nvs, ring, last):
                violations += 1
                if violations < 6:
                    wrong.append("cut at %d, %d: %s" % (at, tear, text))
        if whole:
            return {"trials": trials, "violations": violations, "texts": wrong,
                    "refused": trials - 3}
        at += 1


what, store, design, each = sys.argv[1:5]
STEP *= int(each) if what == "heap" else 1
print(json.dumps({"heap": heap, "cut": cut}[what](
    store == "ring", Journal if design == "right" else HeadFirst)))
