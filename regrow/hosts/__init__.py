"""Entry points to the decode loop: `prune`, `generate` and `Engine`, and the checks of what callers pass."""
