"""The rotary embedding, and the write of keys and values to the cache."""
