"""The ledger: OCMF text, P-256 signing, the journal and its numbers."""


class StoreError(Exception):
    """The flash did not take or give what was asked; the text says what."""


def store(kind, board):
    """The store behind the journal, "ring" or "littlefs", on a board's flash; the other one's
    module is not loaded. Each refuses to open what the other has laid."""
    if kind == "ring":
        from evmeter.ledger.ring import RingStore

        return RingStore(board.journal_flash)
    from evmeter.ledger.segments import SegmentStore

    return SegmentStore(board.mount_journal)
