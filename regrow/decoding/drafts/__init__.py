"""Drafts of lossless decoding: tokens that are guessed cheaply and then checked by one dense pass."""
