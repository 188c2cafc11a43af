"""Methods at work: what the patched modules of a model do, and the state it needs."""
