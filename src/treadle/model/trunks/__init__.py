"""From a sequence to a sequence, (B, T, D) to (B, T, D)."""
