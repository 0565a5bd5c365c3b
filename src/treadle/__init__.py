"""Treadle turns a small team's own data into its own model, in production, and keeps it turning."""

__version__ = "0.1.0"
