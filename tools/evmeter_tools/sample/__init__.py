"""Stored data to try reports and pages on: a device on virtual time, and a database filled fast."""
