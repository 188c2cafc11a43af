"""The gate of an FFN, activated, times up."""
