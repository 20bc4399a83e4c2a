"""Hydra's configuration groups: values live here, meaning in each room's config.py."""
