"""Stored data to try reports and pages on: a device on virtual time, a database filled fast."""
