"""The journal's face to the uplink, in memory."""

from evmeter.ledger.journal import JournalError


class MemoryJournal:
    """Frames 1.. of (type, payload)."""

    def __init__(self, frames=()):
        self.frames = list(frames)
        self.cursor = 0
        self.unreadable = set()
        self.confirmed = []

    @property
    def next_seq(self):
        return len(self.frames) + 1

    def append(self, kind, payload):
        self.frames.append((kind, payload))

    def read(self, seq, buffer):
        if seq in self.unreadable:
            self.cursor = max(self.cursor, seq)
            raise JournalError("frame %d is damaged" % seq)
        kind, payload = self.frames[seq - 1]
        buffer[: len(payload)] = payload
        return kind, len(payload)

    def confirm(self, cum, sel=(), bad=()):
        self.confirmed.append((cum, tuple(sel)))
        self.cursor = max(self.cursor, cum)
        while self.cursor + 1 in sel:
            self.cursor += 1
