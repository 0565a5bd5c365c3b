"""Figures with their intervals, baselines on the same bytes, and the scorecard."""
