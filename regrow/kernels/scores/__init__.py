"""Scores of neurons: their activations relative to the norm of a token (paper, eq. 2)."""
