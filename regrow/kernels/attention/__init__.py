"""Attention of a decode step over a cache of fixed size."""
