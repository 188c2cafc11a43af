"""A checksum of the bytes of a tensor."""
