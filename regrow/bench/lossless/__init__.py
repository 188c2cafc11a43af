"""Benchmark of lossless decoding: every draft against dense decoding, in turn."""
