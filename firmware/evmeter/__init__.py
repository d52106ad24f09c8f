"""Signed charging-session metering for EV chargers: the device's logic, free of hardware."""

VERSION = "0.1.0"
BUILD_UNIX_S = 1795478400  # 2026-11-24: no clock of a device can truly be earlier
