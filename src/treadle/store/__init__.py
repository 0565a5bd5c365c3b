"""Artifacts on disk, and the ledger of what was made, served and said."""
