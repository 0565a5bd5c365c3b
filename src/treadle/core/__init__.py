"""What every room shares: errors, batches, the machine, progress, registries."""
