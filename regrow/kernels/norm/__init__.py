"""The residual addition of a block, and its RMSNorm."""
