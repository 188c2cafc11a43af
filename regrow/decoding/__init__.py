"""The decode loop: a batch, the network that runs it, the sampler that chooses its tokens."""
