"""Scenes with exact truth: what tools are measured on, and what tasks are asked about."""
