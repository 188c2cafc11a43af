"""Linear layers that use only the kept inputs of a step (TEAL, WINA)."""
