"""From a sequence to outputs and a loss."""
