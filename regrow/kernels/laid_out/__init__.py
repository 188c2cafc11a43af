"""Weights in the layout that oneDNN multiplies fastest with, on a CPU."""
