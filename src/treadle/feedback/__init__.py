"""From users' feedback to training data, and the decision to promote."""
