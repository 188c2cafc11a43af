"""Weights in the blocked layout in which oneDNN multiplies them fastest (CPU)."""
