"""Emulated meter, vehicle and wire: what stands around a device on the bench."""
