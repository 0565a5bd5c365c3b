"""What a head is asked for: its right answers encoded, and its outputs as answers. One module per kind."""
