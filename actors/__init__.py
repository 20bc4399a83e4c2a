"""Turns tasks into rollouts with a snapshot of the policy."""
