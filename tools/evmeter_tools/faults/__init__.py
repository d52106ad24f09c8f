"""Fault campaigns: the firmware's own modules under damage, and how often they were wrong."""
