"""A linear of which only the kept inputs count (TEAL, WINA)."""
