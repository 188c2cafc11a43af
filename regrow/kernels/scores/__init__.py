"""Scores of neurons: squared activations relative to the norm of their token (paper, eq. 2)."""
