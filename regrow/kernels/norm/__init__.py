"""The residual of a block and its RMSNorm."""
