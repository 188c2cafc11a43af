"""A gated FFN that computes only its retained neurons (paper, eq. 4)."""
