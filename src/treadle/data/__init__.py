"""Records, their sources and the steps over them, tokens at rest, and the loader."""
