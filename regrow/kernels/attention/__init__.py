"""Attention of a decode step over a KV cache of fixed size."""
