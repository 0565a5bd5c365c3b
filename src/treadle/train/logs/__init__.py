"""Where the figures of a run go beside its own files: trackers of others, each in the one module that imports it."""
