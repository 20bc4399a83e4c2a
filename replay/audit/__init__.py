"""Whether a replay kept its word: every law of it, read back from what lies on the disk."""
