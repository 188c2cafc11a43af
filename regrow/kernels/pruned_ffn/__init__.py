"""A gated FFN of which only the retained neurons are computed (paper, eq. 4)."""
