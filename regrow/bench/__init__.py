"""Benchmarks: bounds from the bytes that a step reads, then measured times."""
