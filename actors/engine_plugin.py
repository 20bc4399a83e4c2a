"""What every process of the engine does first (vLLM's general plugin, named in pyproject.toml).

New weights make the engine forget its prefixes and encoded pictures, and go over the requests in flight again. A
request whose pictures were covered by a shared prefix when it began was handed to the workers without their pixels,
to save a copy; gone over again, it has nothing to encode, and the engine dies. So pixels stay with their requests.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Leave the pixels of pictures that a cached prefix covers in the requests that go to workers."""
    from vllm.v1.core.sched import output

    output.strip_covered_mm_data = keep_all


def keep_all(features: Any, *_: Any, **__: Any) -> Any:
    """Instead of `vllm.multimodal.utils.strip_covered_mm_data`: nothing is stripped."""
    return features
