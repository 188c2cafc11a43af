"""Recording of compiled kernel calls, and their replay without Python (CPU)."""
