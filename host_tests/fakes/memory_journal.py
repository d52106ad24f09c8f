"""The journal's face to the uplink, in memory."""

from evmeter.ledger.journal import JournalError


class MemoryJournal:
    """Frames `first` + 1.. of (type, payload). One in `unreadable` cannot be read; the cursor
    passes over it like the journal's over a damaged frame, unless `passes_over` is False."""

    def __init__(self, frames=(), first=0):
        self.frames = list(frames)
        self.first = first
        self.cursor = first
        self.unreadable = set()
        self.passes_over = True
        self.confirmed = []

    @property
    def next_seq(self):
        return self.first + len(self.frames) + 1

    def append(self, kind, payload):
        self.frames.append((kind, payload))

    def read(self, seq, buffer):
        if seq in self.unreadable:
            if self.passes_over:
                self.cursor = max(self.cursor, seq)
            raise JournalError("frame %d is damaged" % seq)
        kind, payload = self.frames[seq - self.first - 1]
        buffer[: len(payload)] = payload
        return kind, len(payload)

    def view(self, seq):
        return self.frames[seq - self.first - 1]

    def confirm(self, cum, sel=(), bad=()):
        self.confirmed.append((cum, tuple(sel)))
        self.cursor = max(self.cursor, cum)
        while self.cursor + 1 in sel:
            self.cursor += 1


class SeriesJournal:
    """Frames made from their number, for runs longer than the heap: `payload_bytes` each."""

    def __init__(self, total, payload_bytes, key_id):
        self.next_seq = total + 1
        self.cursor = 0
        self._head = '{"v":1,"ts":1790000000,"tq":"I","k":"%s","sid":"","seq":%%d,"pad":"' % key_id
        self._end = b"x" * payload_bytes + b'"}'
        self._bytes = payload_bytes

    def payload(self, seq):
        """The payload of frame `seq`."""
        buffer = bytearray(self._bytes)
        self.read(seq, buffer)
        return bytes(buffer)

    def read(self, seq, buffer):
        head = (self._head % seq).encode()
        buffer[: len(head)] = head
        buffer[len(head) : self._bytes] = memoryview(self._end)[2 + len(head) :]
        return 1 + seq % 4, self._bytes

    def view(self, seq):
        return 1 + seq % 4, self.payload(seq)

    def confirm(self, cum, sel=(), bad=()):
        self.cursor = max(self.cursor, cum)
        while self.cursor + 1 in sel:
            self.cursor += 1
