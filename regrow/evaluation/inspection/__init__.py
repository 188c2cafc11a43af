"""What a method keeps of one batch: its masks, the samples' own neurons, and the activations."""
