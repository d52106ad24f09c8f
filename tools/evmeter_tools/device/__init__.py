"""The installer's side: a device on a serial port, or the host board in its run folder."""
