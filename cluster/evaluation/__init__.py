"""Measuring a policy: the same tasks in several arms, what came of them with intervals, and how it is shown."""
