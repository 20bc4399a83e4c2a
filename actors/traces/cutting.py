"""A trace that is too long, cut between turns: pictures and their placeholders stay together."""

from __future__ import annotations

from dataclasses import replace

from common.types import Trace


def cut(trace: Trace, max_tokens: int) -> Trace | None:
    """The longest beginning of whole turns within `max_tokens` that ends in something to imitate; None where there is
    none. A trace that fits comes back as it is.
    """
    ends, total = [], 0
    for turn in trace.turns:
        total += len(turn.token_ids)
        ends.append(total)
    if total <= max_tokens:
        return trace
    for kept in range(len(ends) - 1, 0, -1):
        start, stop = ends[kept - 2] if kept > 1 else 0, ends[kept - 1]
        if stop > max_tokens or not any(trace.weights[start:stop]):
            continue
        return replace(
            trace,
            turns=trace.turns[:kept],
            weights=trace.weights[:stop],
            boxes=tuple(target for target in trace.boxes if target.position < stop - 1),
            points=tuple(target for target in trace.points if target.position < stop - 1),
            spans=tuple(target for target in trace.spans if target.position < stop - 1),
        )
    return None
