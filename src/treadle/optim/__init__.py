"""Optimisers and schedules. They know named parameters, and nothing of models."""
