"""How a tool refuses: a code of the closed set and a short hint, which become an observation that the agent can
repair.
"""

from __future__ import annotations

from common.errors import PixelisError
from common.types import ErrorCode


class ToolError(PixelisError):
    """A call that could not be served. `hint` says in a few words what would be right."""

    def __init__(self, code: ErrorCode, hint: str) -> None:
        super().__init__(f"{code}: {hint}")
        self.code: ErrorCode = code
        self.hint = hint


class NoWorker(PixelisError):
    """No process that executes tool calls could be started."""
