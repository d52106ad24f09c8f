"""`evmeter scan`: which meter is on a serial port, at what speed, parity and unit."""
