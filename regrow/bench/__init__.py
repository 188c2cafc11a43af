"""Measurements: what the bytes allow first, then the clock."""
