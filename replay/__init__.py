"""Remembers rollouts: what to keep, what to hand out, what to call similar."""
