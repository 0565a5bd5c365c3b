"""Collect, clean, split, tokenise: the corpus and the dataset."""
