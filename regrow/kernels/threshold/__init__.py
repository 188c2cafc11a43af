"""Finds the inputs of a linear layer that exceed a threshold over a batch (TEAL, WINA)."""
