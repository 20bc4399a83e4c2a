"""The arms of an evaluation: one policy put to the same question in several ways, so that what tools add can be told
from what is there without them.

Whatever an arm writes for the policy (an opened tag, a random call) stands in the turn before the policy's own, so
nothing of it counts as sampled.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Arm: TypeAlias = Literal[
    "learned", "no_tool", "random_tool", "forced_tool",
    "without_ZOOM", "without_SEG", "without_TRK", "without_OCR", "without_TEMP", "without_PROP",
]  # fmt: skip
"""learned: the policy decides.
no_tool: its turn is opened with an answer's tag, so it answers from the view.
random_tool: as many random calls as the task's planned chain has, at least one, are made for it, then its turn is
opened with an answer's tag: what looking somewhere is worth. A call is drawn evenly over the tools that the workspace
has something for, with references and arguments that are valid there.
forced_tool: its turns are opened with the beginning of a call until one call was made, then it goes on freely.
without_X: the policy decides, but calls of tool X come back as unavailable.
"""

ARMS: tuple[Arm, ...] = get_args(Arm)[:4]
"""Those of every evaluation."""
ABLATIONS: tuple[Arm, ...] = get_args(Arm)[4:]
"""One a tool: side by side with `learned` they are the matrix of which family needs which tool."""
