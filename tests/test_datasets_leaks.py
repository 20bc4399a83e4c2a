"""What two sets share, and tasks written down as a set."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from actors.tasks.config import FAMILIES, WorldConfig
from actors.tasks.datasets.export import write_tasks
from actors.tasks.datasets.leaks import COLOUR, DISTANCE, colour_distance, find_leaks, near_duplicates
from actors.tasks.datasets.prints import (
    LOW,
    SIDE,
    Prints,
    exact_print,
    normalised_question,
    perceptual_print,
    pictures_of,
    prints_of,
)
from actors.tasks.datasets.tasks import read_tasks
from actors.tasks.world.world import World
from actors.tools.config import MediaLimits
from cluster.launch import main
from common.media import FolderMediaStore, decode_image, pixels_of, put_image
from common.types import MediaRef, Query, Task

Picture = NDArray[np.uint8]


def all_families() -> WorldConfig:
    return WorldConfig(mix=dict.fromkeys(FAMILIES, 1.0))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderMediaStore, list[Query]]:
    store = FolderMediaStore(tmp_path_factory.mktemp("world"))
    world = World(all_families(), store)
    return store, [world.task("test", index).query for index in range(24)]


def prints(name: str, pictures: list[Picture], store: FolderMediaStore, question: str = "What?") -> Prints:
    queries = [
        Query(query_id=f"{name}-{i}", question=question, images=(put_image(store, picture),))
        for i, picture in enumerate(pictures)
    ]
    return prints_of(name, queries, store)


def jpeg(picture: Picture) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return decode_image(buffer.getvalue(), name="copy")


def resized(picture: Picture) -> Picture:
    height, width, _ = picture.shape
    return np.asarray(Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS))


def brighter(picture: Picture) -> Picture:
    return np.clip(picture * 1.1, 0, 255).astype(np.uint8)


# Fingerprints


def test_the_perceptual_hash_is_the_signs_of_the_lowest_cosines() -> None:
    from scipy.fft import dctn

    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    grey = np.asarray(Image.fromarray(picture).convert("L"), float)
    low = dctn(grey, type=2)[:LOW, :LOW]
    expected = (low > np.median(low)).ravel()
    words = perceptual_print(picture)
    bits = [int(words[at % 4]) >> (63 - at // 4) & 1 for at in range(LOW * LOW)]
    assert np.array_equal(np.array(bits, bool), expected)


def test_flat_pictures_hash_alike_and_their_colours_tell_them_apart(tmp_path: Path) -> None:
    def flat(*colour: int) -> Picture:
        return np.full((20, 30, 3), colour, np.uint8)

    assert np.array_equal(perceptual_print(flat(200, 0, 0)), perceptual_print(flat(0, 120, 0)))
    store = FolderMediaStore(tmp_path)
    leaks = find_leaks(prints("a", [flat(200, 0, 0)], store), prints("b", [flat(0, 120, 0), flat(210, 0, 0)], store))
    assert (leaks.exact, leaks.near, [pair.second for pair in leaks.pairs]) == (0, 1, ["b-1"])


def test_the_exact_hash_is_of_pixels_and_size() -> None:
    picture = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(2, 6, 3)
    assert exact_print(picture) == exact_print(picture.copy())
    assert exact_print(picture) != exact_print(picture.reshape(6, 2, 3))
    assert exact_print(picture) != exact_print(picture[:, ::-1])


def test_a_question_is_its_words() -> None:
    assert normalised_question(" Which  colour,\nSTRASSE? ") == normalised_question("which colour Straße")
    assert normalised_question("is a left of b?") != normalised_question("is b left of a?")


# What sets share


@pytest.mark.parametrize("change", [np.copy, jpeg, resized, brighter, lambda p: jpeg(brighter(resized(p)))])
def test_a_changed_copy_of_a_picture_of_the_world_is_found(
    drawn: tuple[FolderMediaStore, list[Query]], tmp_path: Path, change: Callable[[Picture], Picture]
) -> None:
    store, queries = drawn
    pictures = [pixels_of(store, pictures_of(query)[0]) for query in queries]
    aside = FolderMediaStore(tmp_path)
    first = prints("a", pictures, aside)
    leaks = find_leaks(first, prints("b", [change(picture) for picture in pictures], aside))
    assert leaks.exact + leaks.near == len(pictures)
    assert {(pair.first[2:], pair.second[2:]) for pair in leaks.pairs} <= {
        (str(i), str(i)) for i in range(len(pictures))
    }
    assert leaks.tasks == leaks.questions == len(pictures)
    assert not leaks.clean


def test_different_tasks_of_the_world_share_no_picture(drawn: tuple[FolderMediaStore, list[Query]]) -> None:
    store, queries = drawn
    leaks = find_leaks(prints_of("a", queries[:12], store), prints_of("b", queries[12:], store))
    assert leaks.clean
    assert not leaks.pairs
    assert leaks.pictures[0] > 12  # clips show several


def test_the_splits_of_the_world_share_no_pixels(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    world = World(WorldConfig(), store)
    sets = [
        prints_of(split, [world.task(split, index).query for index in range(12)], store)
        for split in ("train", "validation", "test", "index")
    ]
    assert all(find_leaks(a, b, distance=None).clean for i, a in enumerate(sets) for b in sets[i + 1 :])
    assert find_leaks(sets[0], sets[0], distance=None).exact == 12  # the check can fail


def test_blocks_find_what_every_pair_alone_finds() -> None:
    random = np.random.default_rng(3)
    centres = random.integers(0, 2**63, (200, 4), np.uint64)
    hashes = centres[random.integers(0, 200, 9000)] ^ (np.uint64(1) << random.integers(0, 64, (9000, 4), np.uint64))
    colours = random.integers(100, 134, (9000, 192), np.uint8)

    def made(rows: slice) -> Prints:
        number = len(hashes[rows])
        return Prints(
            name="",
            ids=tuple(map(str, range(number))),
            questions=("",) * number,
            exact=tuple(bytes([rows.start % 251]) + i.to_bytes(4, "big") for i in range(number)),
            perceptual=hashes[rows],
            colours=colours[rows],
            items=tuple((i,) for i in range(number)),
        )

    few, many = made(slice(0, 140)), made(slice(140, 9000))
    found = set(near_duplicates(few, many, 8))
    bits = np.bitwise_count(few.perceptual[:, None] ^ many.perceptual[None]).sum(axis=2)
    one, other = np.nonzero(bits <= 8)
    alike = colour_distance(few.colours[one], many.colours[other]) <= COLOUR
    expected = set(zip(one[alike].tolist(), other[alike].tolist(), bits[one, other][alike].tolist(), strict=True))
    assert found == expected
    assert 0 < len(expected) < len(one)  # the colours decide some


def test_a_picture_of_many_questions_is_one_picture_and_all_its_items_leak(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path)
    picture = np.random.default_rng(1).integers(0, 256, (30, 30, 3), np.uint8)
    ref = put_image(store, picture)
    first = prints_of("a", [Query(query_id="x", question="One?", images=(ref,))], store)
    asked = ("one", "two?", "three?")
    second = prints_of("b", [Query(query_id=text, question=text, images=(ref,)) for text in asked], store)
    leaks = find_leaks(first, second)
    assert (leaks.exact_pairs, leaks.exact, leaks.near, leaks.tasks, leaks.questions) == (1, 3, 0, 1, 1)
    assert leaks.pictures == (1, 1)
    assert (leaks.pairs[0].second, leaks.pairs[0].same_question) == ("one", True)
    with pytest.raises(ValueError, match="distance must be"):
        find_leaks(first, second, distance=256)
    assert DISTANCE < 256


# Written down


def test_tasks_of_the_world_read_back_as_they_were(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path / "a")
    world = World(all_families(), store)
    tasks = [world.task("test", index) for index in range(20)]
    kept = {ref.digest: pixels_of(store, ref) for task in tasks for ref in refs(task)}
    assert write_tasks(iter(tasks), tmp_path / "out" / "test.parquet", store, about={"split": "test"}) == 20
    again = FolderMediaStore(tmp_path / "b")
    read = read_tasks(tmp_path / "out", None, store=again, limits=MediaLimits())
    assert any(task.query.clip for task in read)
    for before, after in zip(tasks, read, strict=True):
        for name in ("answer", "accepted", "kind", "family", "split", "chain"):
            assert getattr(before, name) == getattr(after, name)
        assert (before.query.query_id, before.query.question) == (after.query.query_id, after.query.question)
        for one, other in zip(refs(before), refs(after), strict=True):
            assert np.array_equal(kept[one.digest], pixels_of(again, other))
        if before.query.clip is not None and after.query.clip is not None:
            assert before.query.clip.times_s == after.query.clip.times_s
            assert before.query.clip.shown == after.query.clip.shown


def refs(task: Task) -> tuple[MediaRef, ...]:
    return task.query.images or (task.query.clip.frames if task.query.clip else ())


def test_whoever_interrupts_leaves_no_half_a_set(tmp_path: Path) -> None:
    store = FolderMediaStore(tmp_path / "store")
    world = World(WorldConfig(), store)

    def interrupted() -> Iterator[Task]:
        yield world.task("test", 0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tasks(interrupted(), tmp_path / "out" / "test.parquet", store, about={})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["media"]


# The command


def test_a_set_of_the_world_is_written_shown_and_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    write = ["data", "world", "--out", out, "--count", "3"]
    assert main([*write, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["tasks"] == 3
    assert main(write) == 2
    assert "--force" in capfd.readouterr().err
    assert main(["data", "show", out, "--rows", "2", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["num_rows"], len(shown["rows"]), shown["num_broken"]) == (3, 2, 0)
    next(Path(out).glob("media/*/*.png")).write_bytes(b"no picture")
    assert main(["data", "show", out, "--check"]) == 0
    assert "rows cannot be used" in capfd.readouterr().out
    leaks = ["data", "leaks", "--exact", "--count", "3", "--refuse"]
    assert main([*leaks, "world:train", "world:test"]) == 0
    capfd.readouterr()
    assert main([*leaks, "world:test", out, "--json"]) == 1
    compared = json.loads(capfd.readouterr().out)
    assert compared["left_out"] == {out: 1}
    assert compared["leaks"][0]["exact"] == compared["leaks"][0]["tasks"] == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["world"], "needs --out"), (["world", "--out", "o", "--shift", "odd:1"], "shift must be"),
     (["world", "--out", "o", "--split", "mine"], "split must be"), (["show"], "takes one set"),
     (["show", "gone.jsonl"], "no such file"), (["leaks", "world:test"], "two or more different sets"),
     (["leaks", "world:test", "world:train", "--count", "1", "--distance", "999"], "distance must be")],
)  # fmt: skip
def test_a_wrong_request_is_one_line(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("pixelis: ")
    assert reason in said
    assert not list(tmp_path.iterdir())
