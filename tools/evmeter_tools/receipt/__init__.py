"""`evmeter receipt`: a session for its driver and for the operator, as S.A.F.E. XML, OCMF text and
a receipt on paper. `content` says what stands there; the others give it a form."""
