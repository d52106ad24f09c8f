"""Configuration, clock, supervision."""
