"""From a batch's input to a sequence (B, T, D)."""
