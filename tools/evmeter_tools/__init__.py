"""evmeter on the host: bench, backend, verification and device commands."""
