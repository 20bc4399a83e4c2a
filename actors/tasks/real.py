"""Real pictures that no training ever touches: photographs and a scanned page that scikit-image ships.

The questions use the words the small agent knows, with answers that anyone can check by looking; the page is read by
EasyOCR. A small
agent trained on plates is not expected to do well here, and the report says how it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from common.media import FolderMediaStore, decode_image, put_image
from common.types import Query, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RealQuestion:
    """A question about a picture of `skimage.data`."""

    file: str
    question: str
    answer: str
    kind: Literal["exact", "anls"]


QUESTIONS = (
    RealQuestion(file="page.png", question="code on the page?", answer="Region-based segmentation", kind="anls"),
    RealQuestion(file="page.png", question="code on the red plate?", answer="none", kind="exact"),
    RealQuestion(file="coffee.png", question="how many plates?", answer="1", kind="exact"),
    RealQuestion(file="coffee.png", question="code on the red plate?", answer="none", kind="exact"),
    RealQuestion(file="astronaut.png", question="side of the orange plate?", answer="left", kind="exact"),
    RealQuestion(file="motorcycle_left.png", question="code on the red plate?", answer="none", kind="exact"),
)
"""What is asked, and what a person answers ("none" where there is no code to read)."""


def real_tasks(store: FolderMediaStore) -> list[Task]:
    """The questions as tasks, their pictures in `store`."""
    tasks = []
    for number, item in enumerate(QUESTIONS):
        picture = decode_image((files("skimage.data") / item.file).read_bytes(), name=item.file)
        query = Query(query_id=f"real-{number}", question=item.question, images=(put_image(store, picture),))
        tasks.append(Task(query=query, answer=item.answer, kind=item.kind, family="real", split="real"))
    return tasks
