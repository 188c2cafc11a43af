"""The elementwise part of a gated FFN: act(gate) * up."""
