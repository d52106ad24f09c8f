"""The append-only journal: one sequence and one hash chain over all durable streams.

Frame: magic A5 5A | payload length u16 | sequence u32 | type u8 | SHA-256(previous frame)[:16] |
payload | CRC-32 of all before it; little-endian. Each append goes frame first, then (next
sequence, head hash, ...) in the second store, so that at boot the journal is ahead of the second
store by nothing or by exactly one frame. Any other difference is a fault, and the numbering goes
on from the higher value: no number is ever given out twice.
"""

import binascii
import gc
import hashlib
import struct

from micropython import const

from evmeter.ledger import StoreError
from evmeter.ledger.head import NO_HASH, Head, JournalError

REC = const(1)
EVT = const(2)
IVL = const(3)
LOG = const(4)

_MAGIC = const(0x5AA5)
_HEADER = "<HHIB16s"
_HEADER_BYTES = const(25)
_OVERHEAD = const(29)
MAX_PAYLOAD = const(2560)
_PADDED = const(2592)  # the longest frame, up to a store's unit
_STEP_BACK = const(32)  # no shorter frame is there, and a multiple of every unit
_REFUSED = "refused"  # the small file
_MOST_REFUSED = const(23)
_PIECE = const(128)


def pieces(text):
    """Yield a text as bytes, 128 characters at a time: a small heap has no room for it twice."""
    for at in range(0, len(text), _PIECE):
        yield text[at : at + _PIECE].encode()


class Journal(Head):
    """The journal over a store (segments.py, ring.py) with its head in the second store (`nvs`).

    `account(type, payload)` gives what of the head a frame changes, as a dict; it is called only
    to take over a frame that the second store has not heard of. `refused` are confirmed frames
    that the backend called bad, the newest 23 of them: they stay on flash longest.
    """

    def __init__(self, store, nvs, account):
        super().__init__(nvs)
        self._store = store
        self._account = account
        self._frame = bytearray(_PADDED)
        self._next_read = (0, 0, 0)  # sequence, segment, offset of the frame after the last read
        self._saved_cursor = 0
        self._unsure = False  # an append broke off: only the flash tells what is on it
        self._refused_saved = True
        self.ready = False
        self.lost = set()
        self.refused = []
        self.cursor = 0

    def open(self):
        """Mount, scan the newest segment, compare with the second store, heal or note faults.

        Raises JournalError where there is no journal to open (blank or foreign flash).
        """
        try:
            self._store.open()
            self._open()
            self._unsure = False
            self.ready = True
        except StoreError as error:
            raise JournalError(str(error)) from None

    def _open(self):
        known = self._load_head()
        last_seq, last_hash, previous_hash, segment, offset, kind, length = self._scan()
        if not known:
            if last_seq:
                self.faults.append("second store lost")
            self.next_seq = last_seq + 1
            self.hash = last_hash
            self._save_head()
        elif last_seq + 1 == self.next_seq:
            if last_seq and last_hash != self.hash:
                self.faults.append("head hash differs")
                self.hash = last_hash
        elif last_seq == self.next_seq and previous_hash == self.hash:
            self._take_over(segment, offset, kind, length)
            self._advance(last_seq, last_hash)
        elif last_seq >= self.next_seq:
            self.faults.append("journal ahead of second store: %d, %d"
                               % (last_seq, self.next_seq - 1))
            self._take_over(segment, offset, kind, length)
            self._advance(last_seq, last_hash)
        else:
            self.faults.append("journal behind second store: %d, %d"
                               % (last_seq, self.next_seq - 1))
        if self._store.damaged:
            self.faults.append("%d damaged segments" % self._store.damaged)
        if self._refused_saved:  # opened again, it may know of more; so with the cursor
            body = self._store.read_small(_REFUSED) or b""
            self.refused = [int.from_bytes(body[at:at + 4], "little")
                            for at in range(0, len(body), 4)]
        body = self._store.read_small("cursor")
        if body and len(body) == 4:
            cursor = min(int.from_bytes(body, "little"), self.next_seq - 1)
        else:
            cursor = self.next_seq - 1
            for index in range(len(self._store.segments)):
                if not self._holds_refused(index):
                    cursor = self._store.segments[index] - 1
                    break
        self._saved_cursor = cursor
        self.cursor = max(self.cursor, cursor)

    def _scan(self):
        """The last whole frame: (sequence, its hash, previous hash, segment, offset, type, payload
        length); zeros where there is none."""
        store = self._store
        while store.segments:
            segment = store.segments[-1]
            found = None
            offset = torn = 0
            while True:
                kind, length, seq = self._load(segment, offset)
                if not kind:
                    torn = length
                    offset = self._search(segment, offset) if torn else 0
                    if not offset:
                        break
                    continue
                if torn:
                    self.faults.append("segment %d is damaged" % segment)
                    torn = 0
                found = (seq, self._digest(length), bytes(self._frame[9:25]), segment, offset,
                         kind, length)
                offset = self._behind(offset, length)
            if found:
                if torn:  # bytes follow that are no frame
                    # Where an append can be torn, that is no fault: what is missing of what was
                    # acknowledged shows in the second store.
                    if not store.tears:
                        self.faults.append("segment %d ends damaged" % segment)
                    store.start_segment()
                return found
            store.set_aside(segment)
        return 0, NO_HASH, NO_HASH, 0, 0, 0, 0

    def _behind(self, offset, length):
        """Where a frame follows the one at `offset` with a payload of `length` bytes."""
        unit = self._store.unit
        return offset + (length + _OVERHEAD + unit - 1) // unit * unit

    def _digest(self, length):
        view = memoryview(self._frame)[: length + _OVERHEAD]
        return hashlib.sha256(view).digest()[:16]

    def _load(self, segment, offset):
        """Read the frame at `offset` into the frame buffer: (type, payload length, sequence).
        Type 0: no whole frame there; the length is then 0 at the segment's end, else 1."""
        frame = self._frame
        got = self._store.read(segment, offset, frame, len(frame))
        if not got:
            return 0, 0, 0
        if got < _OVERHEAD:
            return 0, 1, 0
        magic, length, seq, kind, _ = struct.unpack_from(_HEADER, frame)
        if magic != _MAGIC or length > MAX_PAYLOAD or got < length + _OVERHEAD or not kind:
            return 0, 1, 0
        end = length + _HEADER_BYTES
        crc = binascii.crc32(memoryview(frame)[:end]) & 0xFFFFFFFF
        if struct.unpack_from("<I", frame, end)[0] != crc:
            return 0, 1, 0
        return kind, length, seq

    def _search(self, segment, offset):
        """Where the next bytes are that begin like a frame behind damaged ones; 0: nowhere."""
        frame = self._frame
        unit = self._store.unit
        offset += unit
        while True:
            got = self._store.read(segment, offset, frame, _PADDED)
            for at in range(0, got - _OVERHEAD + 1, unit):
                if frame[at] == _MAGIC & 0xFF and frame[at + 1] == _MAGIC >> 8:
                    return offset + at
            if got < _PADDED:
                return 0
            offset += _PADDED - _STEP_BACK

    def _take_over(self, segment, offset, kind, length):
        """Let the head follow a frame that is on flash, but not in the second store."""
        self._load(segment, offset)
        payload = bytes(memoryview(self._frame)[_HEADER_BYTES : _HEADER_BYTES + length])
        self._change(self._account(kind, payload))

    def _change(self, head):
        for name in head:
            setattr(self, name, head[name])

    def _advance(self, seq, digest):
        self.next_seq = seq + 1
        self.hash = digest
        self._save_head()

    def append(self, kind, payload, **head):
        """Make `payload` durable as frame `next_seq`; returns its sequence number.

        It is bytes, or an iterable of its pieces: then it is whole nowhere but in the frame.
        `head` is what the frame changes there. Raises JournalError when the frame is not on flash;
        then nothing has changed and the number was not used. Where memory or the second store
        failed, that is not known; the next append looks first what is on flash, as a boot does.
        """
        if not self.ready:
            raise JournalError("the journal is not open")
        seq = self.next_seq
        if self._unsure:
            self.open()
            if seq != self.next_seq:  # which the payload has in it
                raise JournalError("frame %d got there after all" % seq)
        frame = self._frame
        length = 0
        for piece in (payload,) if isinstance(payload, bytes) else payload:
            at = _HEADER_BYTES + length
            length += len(piece)
            if length > MAX_PAYLOAD:
                raise JournalError("payload of %d bytes and more; allowed: %d"
                                   % (length, MAX_PAYLOAD))
            frame[at : _HEADER_BYTES + length] = piece
        struct.pack_into(_HEADER, frame, 0, _MAGIC, length, seq, kind, self.hash)
        end = _HEADER_BYTES + length
        crc = binascii.crc32(memoryview(frame)[:end]) & 0xFFFFFFFF
        struct.pack_into("<I", frame, end, crc)
        self._unsure = True
        try:
            self._make_room()
            self._store.append(seq, frame, end + 4)
        except StoreError as error:
            self._unsure = False
            raise JournalError(str(error)) from None
        try:
            self._settle(seq, length, head)
        except (JournalError, MemoryError, RuntimeError):
            # It is on flash. Who asked for it would ask again, and it would be there twice.
            gc.collect()
            self._settle(seq, length, head)
        return seq

    def _settle(self, seq, length, head):
        """Frame `seq`, which lies in the buffer, is on flash."""
        self._change(head)
        self._advance(seq, self._digest(length))
        self._unsure = False

    def free_percent(self):
        """Share of the journal's flash that holds nothing unconfirmed, in percent."""
        segments = self._store.segments
        done, rest = 0, max(0, len(segments) - 1)
        while done < rest:  # segments are in order: how many are confirmed to their end
            middle = (done + rest) // 2
            if segments[middle + 1] <= self.cursor + 1:
                done = middle + 1
            else:
                rest = middle
        capacity = self._store.capacity
        held = len(segments) - done
        return max(0, capacity - held) * 100 // capacity if capacity > 0 else 0

    def _make_room(self):
        store = self._store
        while len(store.segments) > 1 and len(store.segments) >= store.capacity - 1:
            first = self._spare()
            if not first:
                return
            self._save_cursor()
            store.drop(first)

    def _spare(self):
        """The segment whose room is given back next: the oldest that is confirmed to its end; one
        with a refused frame only when there is no other room left. 0: none."""
        segments = self._store.segments
        for index in range(len(segments) - 1):
            if segments[index + 1] > self.cursor + 1:
                break
            if not self._holds_refused(index):
                return segments[index]
        full = len(segments) >= self._store.capacity
        return segments[0] if full and segments[1] <= self.cursor + 1 else 0

    def _holds_refused(self, index):
        segments = self._store.segments
        end = segments[index + 1] if index + 1 < len(segments) else self.next_seq
        return any([segments[index] <= seq < end for seq in self.refused])

    def read(self, seq, buffer):
        """Copy the payload of frame `seq` into `buffer`; returns (type, length). Raises
        JournalError as `view` does."""
        kind, payload = self.view(seq)
        buffer[:len(payload)] = payload
        return kind, len(payload)

    def view(self, seq):
        """(type, payload) of frame `seq`; the payload is a memoryview, valid until the journal is
        used next.

        Raises JournalError where the frame cannot be read. One that is damaged or missing is
        passed over by the cursor from then on; it stays on flash for reading out.
        """
        if not 0 < seq < self.next_seq:
            raise JournalError("there is no frame %d" % seq)
        try:
            kind, length = self._find(seq)
        except StoreError as error:
            raise JournalError(str(error)) from None
        if not kind:
            self.lost.add(seq)
            self._pass_over(())
            raise JournalError("frame %d is damaged or missing" % seq)
        return kind, memoryview(self._frame)[_HEADER_BYTES : _HEADER_BYTES + length]

    def _find(self, seq):
        """Load frame `seq` into the frame buffer: (type, payload length); type 0: not there."""
        at_seq, segment, offset = self._next_read
        if at_seq != seq or seq in self._store.segments:
            segment = offset = 0
            for first in self._store.segments:
                if first > seq:
                    break
                segment = first
        while segment:
            kind, length, found = self._load(segment, offset)
            if not kind:
                offset = self._search(segment, offset) if length else 0
                if offset:
                    continue
            if not kind or found > seq:
                break
            offset = self._behind(offset, length)
            if found == seq:
                self._next_read = (seq + 1, segment, offset)
                return kind, length
        return 0, 0

    def confirm(self, cum, sel=(), bad=()):
        """The backend has stored everything up to `cum`, and each of `sel`, of which it takes
        those in `bad` for wrong.

        Moves the cursor. Raises JournalError for a number that was never given out.
        """
        highest = max(cum, max(sel) if sel else 0)
        if highest >= self.next_seq:
            raise JournalError("number %d was never given out" % highest)
        for seq in bad:
            if seq not in self.refused:
                self.refused.append(seq)
                self._refused_saved = False
        del self.refused[:-_MOST_REFUSED]
        if cum > self.cursor:
            self.cursor = cum
        self._pass_over(sel)

    def _pass_over(self, sel):
        while self.cursor + 1 in sel or self.cursor + 1 in self.lost:
            self.cursor += 1
            self.lost.discard(self.cursor)

    def save_cursor(self):
        """Make durable what is confirmed, if that changed. Losing it costs a repeated delivery
        only."""
        try:
            self._save_cursor()
        except StoreError as error:
            raise JournalError(str(error)) from None

    def _save_cursor(self):
        if not self._refused_saved:  # first: behind the cursor, nothing is asked for again
            self._store.write_small(_REFUSED, b"".join(
                [seq.to_bytes(4, "little") for seq in self.refused]))
            self._refused_saved = True
        if self.cursor != self._saved_cursor:
            self._store.write_small("cursor", self.cursor.to_bytes(4, "little"))
            self._saved_cursor = self.cursor

    def oldest(self):
        """Number of the oldest frame that is on flash."""
        segments = self._store.segments
        return segments[0] if segments else self.next_seq

    def unconfirmed(self):
        """How many frames wait for the backend's confirmation."""
        return self.next_seq - 1 - self.cursor

    def load_small(self, name):
        """Bytes of a checkpoint, or None."""
        return self._store.read_small(name)

    def save_small(self, name, body):
        """Replace a checkpoint whole. Raises JournalError."""
        try:
            self._store.write_small(name, body)
        except StoreError as error:
            raise JournalError(str(error)) from None
