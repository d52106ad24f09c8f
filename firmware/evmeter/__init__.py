"""Signed charging-session metering for EV chargers: the device's logic, free of hardware."""

VERSION = "0.1.0"
