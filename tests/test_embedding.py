"""The frozen encoder: unit vectors, nearer for likelier queries, named by its parameters."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.embedding import ClassicalEmbedder


def picture(colour: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    shade = np.random.default_rng(seed).integers(-10, 11, (64, 64, 3))
    return np.clip(np.array(colour) + shade, 0, 255).astype(np.uint8)


@given(st.text(max_size=40), st.integers(0, 3))
def test_every_vector_has_length_one(question: str, num_pictures: int) -> None:
    vector = ClassicalEmbedder().embed(question, [picture((10 * i, 90, 200), i) for i in range(num_pictures)])
    assert vector.shape == (ClassicalEmbedder().dimension,)
    assert vector.dtype == np.float32
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-6


def test_a_question_is_nearer_to_a_like_one_about_a_like_picture() -> None:
    embed = ClassicalEmbedder().embed
    base = embed("code on the red plate?", [picture((200, 40, 40))])
    like = embed("code on the blue plate?", [picture((190, 50, 40), 1)])
    other_text = embed("how many balls are left?", [picture((190, 50, 40), 1)])
    other_both = embed("how many balls are left?", [picture((30, 60, 200), 2)])
    assert base @ like > base @ other_text > base @ other_both


def test_the_digest_names_the_parameters_and_nothing_else() -> None:
    assert ClassicalEmbedder().digest == ClassicalEmbedder().digest
    assert (
        len({ClassicalEmbedder().digest, ClassicalEmbedder(grid=4).digest, ClassicalEmbedder(buckets=64).digest}) == 3
    )


def test_the_same_query_has_the_same_vector_in_another_encoder() -> None:
    a = ClassicalEmbedder().embed("side of the pink plate?", [picture((1, 2, 3))])
    b = ClassicalEmbedder().embed("side  of the pink PLATE?", [picture((1, 2, 3))])
    assert (a == b).all()
