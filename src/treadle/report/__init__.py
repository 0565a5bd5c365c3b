"""What happened, as one HTML page, and where it came from."""
