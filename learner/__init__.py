"""Turns rollouts into a better policy."""
