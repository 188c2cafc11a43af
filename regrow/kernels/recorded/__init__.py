"""Calls of compiled kernels, recorded once and replayed in one call (CPU)."""
