"""Smaller weights, and how far the outputs drifted."""
