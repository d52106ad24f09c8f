"""The installer's side: what is put on a board, and a device on a serial port or in the host
board's run folder."""
