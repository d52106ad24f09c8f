"""Many devices at one backend: firmware processes, and devices that replay recorded sessions."""
