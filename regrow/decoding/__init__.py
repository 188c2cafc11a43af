"""The decode loop: the batch, the network that runs it, and the sampler that chooses its tokens."""
