"""Calibration: thresholds or pruned weights that a method derives from a text before a run."""
