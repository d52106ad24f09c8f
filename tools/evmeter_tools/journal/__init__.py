"""`evmeter journal`: read a device's journal out of a flash image. `extract` opens the littlefs in
a process of its own, `scan` finds frames and faults, `words` puts them for people."""
