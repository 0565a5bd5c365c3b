"""Inputs, trunks and heads, and the one place where they meet."""
