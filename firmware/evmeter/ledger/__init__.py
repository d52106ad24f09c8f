"""The ledger: OCMF text, P-256 signing, the journal and its numbers."""


class StoreError(Exception):
    """The flash did not take or give what was asked; the text says what."""
