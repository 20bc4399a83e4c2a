"""torchvision beside a CPU torch, in a fresh process and against a brute force."""

import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.torchvision_ops import nms


def brute_force(boxes: list[tuple[float, ...]], scores: list[float], threshold: float) -> list[int]:
    """Greedy suppression, one pair at a time."""

    def area(box: tuple[float, ...]) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        return width * height / (area(a) + area(b) - width * height)

    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def test_a_box_that_overlaps_a_better_one_goes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]


def test_nothing_in_nothing_out():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


side = st.integers(0, 30)
box = st.tuples(side, side, st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


@settings(deadline=None, max_examples=60)
@given(st.lists(box, min_size=1, max_size=12), st.sampled_from([0.1, 0.3, 0.45, 0.7]), st.randoms())
def test_suppression_agrees_with_a_brute_force(boxes, threshold, random):
    scores = random.sample(range(1000), len(boxes))
    found = nms(torch.tensor(boxes), torch.tensor(scores, dtype=torch.float32), threshold)
    assert found.tolist() == brute_force(boxes, [float(score) for score in scores], threshold)


def test_a_fresh_process_imports_torchvision_and_easyocr_and_suppresses():
    program = (
        "import torch, torchvision, easyocr\n"
        "boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])\n"
        "print(torchvision.ops.nms(boxes, torch.tensor([.5, .9, .1]), .5).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[1, 2]", done.stderr[-2000:]
