"""easy-VQA (Victor Zhou, 2019; MIT): 5,000 pictures of one shape, 64×64, with 48,248 questions of 13 answers.

The package `easy-vqa` ships pictures and questions; nothing is downloaded or generated. A small outside set whose
answers a view at full size already shows, so it measures seeing rather than the use of tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.tasks.datasets.readers import Source
from common.errors import DataError

SPLITS = ("train", "test")
SHAPES = ("circle", "rectangle", "triangle")


def easy_vqa(split: str) -> Source:
    """One split: 38,575 questions to train on, 9,673 to test. Raises DataError where the package is absent."""
    if split not in SPLITS:
        raise DataError(f"easy-vqa has no split {split!r}; write easy-vqa/train or easy-vqa/test")
    try:
        import easy_vqa as package
    except ImportError:
        raise DataError("easy-vqa is not installed; pip install easy-vqa") from None
    folder = Path(package.__file__).parent / "data" / split / "images"
    return Source(name=f"easy-vqa/{split}", stem=f"easy-vqa-{split}", media=folder, read=lambda: _rows(package, split))


def _rows(package: Any, split: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    questions = package.get_train_questions() if split == "train" else package.get_test_questions()
    for number, (question, answer, picture) in enumerate(zip(*questions, strict=True), 1):
        yield (
            number,
            {
                "media": f"{picture}.png",
                "question": question,
                "answer": answer,
                "kind": "choice" if answer in ("yes", "no") else "exact",
                "family": f"easy-vqa {_about(answer)}",
                "split": split,
            },
        )


def _about(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes or no"
    return "shape" if answer in SHAPES else "colour"
