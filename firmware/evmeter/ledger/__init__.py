"""The ledger: OCMF text, P-256 signing, the journal and its numbers."""
