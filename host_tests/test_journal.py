import hashlib

from evmeter.ledger import journal as frames
from evmeter.ledger.journal import Journal, JournalError
from fakes.memory_store import MemoryNvs, MemoryStore, Power, PowerCut
from support import raises

_BUFFER = bytearray(frames.MAX_PAYLOAD)


def _account(kind, payload):
    return {"page": int(payload[1:])} if kind == frames.REC else {}


def _open(store, nvs):
    journal = Journal(store, nvs, _account)
    journal.open()
    return journal


def _payloads(journal, first=1):
    buffer = _BUFFER
    found = []
    for seq in range(first, journal.next_seq):
        kind, length = journal.read(seq, buffer)
        found.append((kind, bytes(buffer[:length])))
    return found


def test_what_is_appended_is_read_back_in_any_order_after_a_reboot():
    store, nvs = MemoryStore(), MemoryNvs()
    journal = _open(store, nvs)
    assert (journal.next_seq, journal.cursor, journal.faults) == (1, 0, [])
    written = []
    for number in range(40):
        kind = 1 + number % 4
        payload = b"p%d" % number + b"x" * (number * 7 % 90)
        if kind == frames.REC:
            payload = b"p%d" % number
        assert journal.append(kind, payload) == number + 1
        written.append((kind, payload))
    again = _open(store, nvs)
    assert again.faults == []
    assert again.next_seq == 41
    assert again.hash == journal.hash
    assert len(store.segments) > 3
    assert _payloads(again) == written
    buffer = _BUFFER
    for seq in (40, 1, 17, 18, 3, 2):
        kind, length = again.read(seq, buffer)
        assert (kind, bytes(buffer[:length])) == written[seq - 1]
    for seq in (0, 41, -1):
        assert str(seq) in str(raises(JournalError, again.read, seq, buffer))


def test_a_payload_in_pieces_makes_the_same_frame():
    whole, parts = MemoryStore(segment_bytes=4096), MemoryStore(segment_bytes=4096)
    one, other = _open(whole, MemoryNvs()), _open(parts, MemoryNvs())
    for payload in (b"", b"abc", b"x" * frames.MAX_PAYLOAD):
        assert one.append(frames.EVT, payload) == other.append(
            frames.EVT, (payload[at : at + 100] for at in range(0, len(payload), 100)))
    assert whole.data == parts.data

    def breaks_off():
        yield b"something that is on no flash"
        raise MemoryError()

    for pieces, error in ((breaks_off(), MemoryError),
                          ((b"y" * frames.MAX_PAYLOAD, b"z"), JournalError)):
        raises(error, other.append, frames.REC, pieces)
        assert parts.data == whole.data and other.next_seq == 4
    assert one.append(frames.EVT, b"on") == other.append(frames.EVT, (b"o", b"n")) == 4
    assert whole.data == parts.data


def test_frames_are_chained_by_hash():
    store = MemoryStore(segment_bytes=4096)
    journal = _open(store, MemoryNvs())
    for payload in (b"a", b"bb", b"ccc"):
        journal.append(frames.EVT, payload)
    data = store.data[1]
    previous = bytes(16)
    at = 0
    for length in (1, 2, 3):
        assert data[at : at + 2] == b"\xa5\x5a"
        assert data[at + 9 : at + 25] == previous
        previous = hashlib.sha256(data[at : at + length + 29]).digest()[:16]
        at += length + 29
    assert journal.hash == previous


def test_a_cut_between_any_two_operations_loses_and_doubles_nothing():
    for first_cut in range(40):
        power = Power()
        store, nvs = MemoryStore(power), MemoryNvs(power)
        journal = _open(store, nvs)
        power.left = first_cut
        acknowledged = []
        try:
            for number in range(30):
                journal.append(frames.REC, b"r%d" % (number + 100), page=number + 100)
                acknowledged.append(b"r%d" % (number + 100))
        except PowerCut:
            power.restore()
        journal = _open(store, nvs)
        assert journal.faults == [], (first_cut, journal.faults)
        found = [payload for _, payload in _payloads(journal)]
        assert found[: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 1
        assert journal.page == (int(found[-1][1:]) if found else 0)
        assert journal.append(frames.EVT, b"next") == len(found) + 1
        assert _open(store, nvs).faults == []


def test_a_journal_that_lost_frames_never_reuses_a_number():
    store, nvs = MemoryStore(), MemoryNvs()
    journal = _open(store, nvs)
    for number in range(8):
        journal.append(frames.REC, b"r%d" % number, page=number)
    kept = store.data[1]
    store.data = {1: kept[: 4 * 31]}
    journal = _open(store, nvs)
    assert "behind" in journal.faults[0]
    assert (journal.next_seq, journal.page) == (9, 7)
    assert journal.append(frames.EVT, b"on") == 9
    journal = _open(store, nvs)
    assert journal.faults == []
    buffer = _BUFFER
    assert journal.read(9, buffer) == (frames.EVT, 2)
    assert "damaged or missing" in str(raises(JournalError, journal.read, 6, buffer))


def test_a_lost_second_store_is_a_fault_and_the_journal_goes_on():
    store = MemoryStore()
    journal = _open(store, MemoryNvs())
    for number in range(3):
        journal.append(frames.EVT, b"e%d" % number)
    journal = _open(store, MemoryNvs())
    assert journal.faults == ["second store lost"]
    assert journal.append(frames.EVT, b"e3") == 4


def test_bytes_behind_the_last_frame_are_never_appended_to():
    store, nvs = MemoryStore(segment_bytes=4096), MemoryNvs()
    journal = _open(store, nvs)
    journal.append(frames.EVT, b"one")
    store.data[1] += b"\xa5\x5a\x05"
    journal = _open(store, nvs)
    assert "ends damaged" in journal.faults[0]
    journal.append(frames.EVT, b"two")
    assert sorted(store.data) == [1, 2]
    assert _payloads(_open(store, nvs)) == [(2, b"one"), (2, b"two")]


def test_each_single_bit_flip_is_seen():
    store, nvs = MemoryStore(segment_bytes=4096), MemoryNvs()
    journal = _open(store, nvs)
    for payload in (b"first", b"second"):
        journal.append(frames.EVT, payload)
    whole = store.data[1]
    buffer = _BUFFER
    for bit in range((5 + 29) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        store.data[1] = bytes(changed)
        journal = _open(store, nvs)
        assert "frame 1" in str(raises(JournalError, journal.read, 1, buffer)), bit
        assert journal.next_seq >= 3, bit


def test_the_cursor_moves_by_confirmation_only_and_room_is_made_oldest_first():
    store, nvs = MemoryStore(capacity=6, segment_bytes=100), MemoryNvs()
    journal = _open(store, nvs)
    for number in range(11):
        journal.append(frames.EVT, b"event %d" % number)
    assert journal.unconfirmed() == 11
    assert journal.free_percent() == 0
    journal.append(frames.EVT, b"last")
    assert "full" in str(raises(JournalError, journal.append, frames.EVT, b"too many"))
    assert journal.next_seq == 13
    for cum, sel, cursor in ((2, (), 2), (2, (4, 5), 2), (1, (), 2), (3, (4, 5), 5), (0, (6,), 6)):
        journal.confirm(cum, sel)
        assert journal.cursor == cursor, (cum, sel)
    assert "13" in str(raises(JournalError, journal.confirm, 13))
    assert "99" in str(raises(JournalError, journal.confirm, 2, (99,)))
    assert journal.append(frames.EVT, b"fits now") == 13
    assert store.segments[0] == 5
    assert _payloads(journal, 5)[-1] == (frames.EVT, b"fits now")
    journal.save_cursor()
    assert _open(store, nvs).cursor == 6


def test_free_room_counts_what_is_not_confirmed():
    store = MemoryStore(capacity=50, segment_bytes=70)  # two frames in each
    journal = _open(store, MemoryNvs())
    assert journal.free_percent() == 100
    for number in range(40):
        journal.append(frames.EVT, b"%06d" % number)
    assert len(store.segments) == 20
    for cursor, expected in ((0, 60), (1, 60), (2, 62), (3, 62), (20, 80), (38, 98), (40, 98)):
        journal.confirm(cursor)
        assert journal.free_percent() == expected, (cursor, journal.free_percent())


def test_a_frame_that_cannot_be_read_is_passed_over():
    store, nvs = MemoryStore(segment_bytes=40), MemoryNvs()
    journal = _open(store, nvs)
    for number in range(4):
        journal.append(frames.EVT, b"e%d" % number)
    store.data[2] = b"\x00" * 31
    journal.confirm(1)
    raises(JournalError, journal.read, 2, _BUFFER)
    assert journal.cursor == 2


def test_a_failed_write_changes_nothing():
    store, nvs = MemoryStore(), MemoryNvs()
    journal = _open(store, nvs)
    journal.append(frames.EVT, b"one")
    store.fail = "error 5"
    before = (journal.next_seq, journal.hash, journal.page, journal.mark_mwh)
    raises(JournalError, journal.append, frames.EVT, b"two")
    assert (journal.next_seq, journal.hash, journal.page, journal.mark_mwh) == before
    store.fail = None
    assert journal.append(frames.EVT, b"two") == 2
    assert "allowed" in str(raises(JournalError, journal.append, frames.EVT, bytes(3000)))


def test_a_blank_flash_is_never_formatted():
    store = MemoryStore()
    store.formatted = False
    journal = Journal(store, MemoryNvs(), _account)
    raises(JournalError, journal.open)
    assert not journal.ready
    assert "not open" in str(raises(JournalError, journal.append, frames.EVT, b"x"))


def test_an_append_that_broke_off_is_looked_for_on_the_flash():
    store, nvs = MemoryStore(), MemoryNvs()
    journal = _open(store, nvs)
    journal.append(frames.REC, b"r7", page=7)
    whole = nvs.set_blob

    def failing(key, value):
        raise OSError(5)

    nvs.set_blob = failing
    for _ in range(3):
        text = str(raises(JournalError, journal.append, frames.EVT, b"two"))
        assert "second store" in text
        assert journal.next_seq == 3
    nvs.set_blob = whole
    assert journal.append(frames.EVT, b"three") == 3
    again = _open(store, nvs)
    assert again.faults == []
    assert _payloads(again) == [(1, b"r7"), (2, b"two"), (2, b"three")]


def test_an_append_that_memory_failed_is_looked_for_on_the_flash():
    store, nvs = MemoryStore(), MemoryNvs()
    journal = _open(store, nvs)
    digest = journal._digest

    def failing(length):
        raise MemoryError

    for _ in range(2):
        journal._digest = failing
        seq = journal.next_seq
        raises(MemoryError, journal.append, frames.EVT, b"e%d" % seq)
        journal._digest = digest
        text = str(raises(JournalError, journal.append, frames.EVT, b"e%d" % seq))
        assert "frame %d got there after all" % seq in text
        assert journal.append(frames.EVT, b"e%d" % journal.next_seq) == seq + 1
    assert _payloads(_open(store, nvs)) == [(2, b"e%d" % number) for number in range(1, 5)]


def test_frames_behind_a_damaged_one_in_its_segment_are_read():
    store, nvs = MemoryStore(segment_bytes=4096), MemoryNvs()
    journal = _open(store, nvs)
    for number in range(6):
        journal.append(frames.EVT, b"e%d" % number + b"-" * 600)
    data = bytearray(store.data[1])
    for at in (3, 631 * 2 + 300):
        data[at] ^= 0x40
    store.data[1] = bytes(data)
    journal = _open(store, nvs)
    assert journal.faults == ["segment 1 is damaged"] * 2
    assert journal.next_seq == 7
    for seq in (1, 3):
        raises(JournalError, journal.read, seq, _BUFFER)
    for seq in (2, 4, 5, 6):
        assert journal.read(seq, _BUFFER)[0] == frames.EVT
        assert bytes(_BUFFER[:2]) == b"e%d" % (seq - 1)


def test_what_the_backend_refused_outlives_what_is_newer():
    store, nvs = MemoryStore(capacity=8, segment_bytes=100), MemoryNvs()
    journal = _open(store, nvs)
    for number in range(1, 9):
        journal.append(frames.EVT, b"event %d" % number)
    journal.confirm(8, (3, 5), (3, 5))
    assert "99" in str(raises(JournalError, journal.confirm, 8, (99,), (99,)))
    for number in range(9, 60):
        journal.append(frames.EVT, b"event %d" % number)
        journal.confirm(number)
        if number % 20 == 0:
            journal = _open(store, nvs)
            assert (journal.faults, journal.refused) == ([], [3, 5])
    assert store.segments[:3] == [3, 5, 51]
    for seq in (3, 5, 51, 59):
        assert journal.read(seq, _BUFFER)[0] == frames.EVT
    del store.small["cursor"]  # where it is lost, what was kept is not asked for again
    assert _open(store, nvs).cursor == 50
    journal.confirm(59, list(range(20, 50)), list(range(20, 50)))
    assert journal.refused == list(range(27, 50))
    journal.save_cursor()
    assert _open(store, nvs).refused == journal.refused
