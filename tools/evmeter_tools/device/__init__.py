"""The installer's side: what is put on a board; a device on a serial port, or the host board in its
run folder."""
