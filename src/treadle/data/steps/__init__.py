"""What is done to records before anything is learned from them: one module per step."""
