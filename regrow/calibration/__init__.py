"""What methods take from a text before a run."""
