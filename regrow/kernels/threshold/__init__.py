"""Which inputs of a linear exceed a threshold over a batch (TEAL, WINA)."""
