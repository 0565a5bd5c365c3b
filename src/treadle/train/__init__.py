"""The one training loop, its objectives, hooks and checkpoints."""
