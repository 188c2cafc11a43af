"""Running methods: what the patched modules of a model compute, and the state that this needs."""
