"""Figures of DESIGN.md section 5, each measured side by side with what it is held against."""
