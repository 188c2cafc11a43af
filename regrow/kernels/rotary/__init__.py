"""The rotary embedding of queries and keys, and the write of keys and values to the KV cache."""
