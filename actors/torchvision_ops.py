"""Makes a CUDA-built torchvision importable beside a CPU-only torch.

The package registry's torchvision links against CUDA. Beside a CPU build of torch its native extension does not
load, its operators are missing, and `import torchvision` fails with `operator torchvision::nms does not exist`.
Declaring the operators before that import cures it. `autoload` is an entry point of the group `torch.backends`, which
torch calls at the end of its own import, so the cure reaches every process that imports torch; where the extension
loads it does nothing.

Non-maximum suppression is supplied here in plain PyTorch. `roi_align` and `torchvision.io` stay unavailable.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_libraries: list[Any] = []
"""Keeps the declared operators alive; a torch.library.Library takes its operators along when it is collected."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive greedy suppression, best score first.

    boxes: (n, 4) as x0, y0, x1, y1. scores: (n,). A box goes when its IoU with a better surviving one exceeds
    `iou_threshold`.
    """
    import torch

    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order].double()
    areas = (ranked[:, 2] - ranked[:, 0]) * (ranked[:, 3] - ranked[:, 1])
    survives = torch.ones(len(ranked), dtype=torch.bool)
    for best in range(len(ranked)):
        if not survives[best]:
            continue
        rest = slice(best + 1, None)
        top_left = torch.maximum(ranked[best, :2], ranked[rest, :2])
        bottom_right = torch.minimum(ranked[best, 2:], ranked[rest, 2:])
        shared = (bottom_right - top_left).clamp(min=0).prod(dim=1)
        union = areas[best] + areas[rest] - shared
        survives[rest] &= ~(shared > iou_threshold * union)
    return order[survives]


class _OperatorsPresent(importlib.abc.MetaPathFinder):
    """Tells torchvision that it has operators, at the one moment between reading its extension module and using it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        extension = sys.modules.get("torchvision.extension")
        if fullname == "torchvision.ops" and extension is not None:
            extension._has_ops = lambda: True  # type: ignore[attr-defined]


def autoload() -> None:
    """Declare torchvision's missing operators. Nothing to do with a CUDA torch, without torchvision, or where it
    loads.
    """
    import torch

    if torch.version.cuda is not None or _libraries:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    extension = next(Path(spec.submodule_search_locations[0]).glob("_C*.so"), None)
    if extension is not None:
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            pass
        else:
            return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(name, nms, "CPU")
    library.define("_cuda_version() -> int")
    library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
    _libraries.append(library)
    sys.meta_path.insert(0, _OperatorsPresent())
