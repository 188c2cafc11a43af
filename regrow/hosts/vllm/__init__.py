"""Regrow inside vLLM: a plugin that prunes the FFNs of a continuously batched server."""
