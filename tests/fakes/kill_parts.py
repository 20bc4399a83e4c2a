"""The processes of a round of kills. Each notes in a file of its own what it was told, line by line.

writer      owns the replay and serves it
producer    starts groups and hands in their rollouts, some of them twice
learner     draws, learns, keeps checkpoints, goes back to one now and then
eraser      erases a source while the writer is stopped
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from fakes.failpoints import Failpoint, FatalDisk
from fakes.kill_setting import DIMENSION, Setting
from fakes.replay_server import Client, serve
from fakes.values import a_consensus, a_query, a_rollout, an_answer_turn
from fakes.zooms import a_zoom

from common.errors import ContractError
from common.media import FolderMediaStore, content_digest, put_image
from common.schema import encode_rollouts
from common.types import ExecutedCall, Rollout
from replay.erasure import erase_source
from replay.opening import open_replay

PREPARED = ("fakes.kill_parts", "fakes.planted", "faiss", "common.stored_png", "blake3", "replay.packs")
"""What the processes import, once for all of them."""


class Notes:
    """A file to which lines of JSON are added, each with one write, so that a kill leaves whole ones."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, *values: Any) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, json.dumps(values).encode() + b"\n")
        os.close(file)

    def read(self) -> list[list[Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []


def fatal_disk(folder: str, failpoint: dict[str, Any] | None) -> FatalDisk:
    return FatalDisk(None if failpoint is None else Failpoint(**failpoint), Path(folder) / "killed")


def writer(
    *, number: int, folder: str, address: str, failpoint: dict[str, Any] | None, verify: bool, bug: str = ""
) -> None:
    setting = Setting.of(number)
    config = setting.config(Path(folder))
    if bug:
        from fakes.planted import open_with

        buffer = open_with(bug, config, Path(folder), None if failpoint is None else Failpoint(**failpoint))
    else:
        buffer = open_replay(config, verify=verify, disk=fatal_disk(folder, failpoint))
    asyncio.run(serve(buffer, address, setting.phase))


def eraser(*, number: int, folder: str, source: str, failpoint: dict[str, Any] | None) -> None:
    erase_source(Setting.of(number).config(Path(folder)).folder, source, disk=fatal_disk(folder, failpoint))


def producer(*, number: int, folder: str, address: str, who: int, epoch: int) -> None:
    _Producer(Setting.of(number), Path(folder), Client(address), who, epoch).run()


class _Producer:
    def __init__(self, setting: Setting, folder: Path, client: Client, who: int, epoch: int) -> None:
        self._setting = setting
        self._folder = folder
        self._client = client
        self._who, self._epoch = who, epoch
        self._notes = Notes(folder / f"producer-{who}")
        self._choices = random.Random(f"kills/{setting.number}/{who}/{epoch}")
        self._sequences = itertools.count()

    def run(self) -> None:
        """Group after group, for ever."""
        if self._setting.named:
            for group in _unfinished(self._notes):
                self._client.call("abandon", group_id=group)
        for count in itertools.count():
            name = f"a{self._who}/{self._epoch}/{count}" if self._setting.named else ""
            query_id = query_of(self._who, self._epoch, count)
            self._notes.add("group", name)
            try:
                self._fill(name, query_id)
            except ContractError as error:
                if "is over" not in str(error):
                    raise
            if self._setting.theme in ("index", "erasure"):
                vector = np.random.default_rng(self._choices.randrange(1 << 30)).normal(size=DIMENSION).tolist()
                self._notes.add("remembered", query_id, self._client.call("remember", vector=vector, query_id=query_id))
            self._notes.add("finished", name)

    def _fill(self, name: str, query_id: str) -> None:
        """Start a group, hand in its rollouts and, in a phase that votes, its vote."""
        admitted = self._client.call("admit", group_id=name)
        for rollout in self._rollouts(admitted["group"], admitted["version"], query_id):
            self._hand_in(rollout, name)
        if self._setting.votes:
            answer = None if self._choices.random() < 0.2 else "493"
            vote = a_consensus(admitted["group"], answer=answer, num_siblings=self._setting.group_size)
            self._client.call("settle", consensus={field: getattr(vote, field) for field in vote.__dataclass_fields__})

    def _rollouts(self, group: str, version: int, query_id: str) -> list[Rollout]:
        same = self._choices.random() < 0.2
        query, calls = a_query(query_id, images=()), tuple[ExecutedCall, ...]()
        if self._setting.media:
            live = FolderMediaStore(self._folder / "live")
            pixels = np.random.default_rng(self._choices.randrange(40)).integers(0, 256, (16, 16, 3), np.uint8)
            image = put_image(live, pixels, compress=False)
            query, calls = a_query(query_id, images=(image,)), (a_zoom(live, image, (2, 3, 10, 9)),)
        return [
            a_rollout(
                group,
                sibling,
                rollout_id=f"{group}/{sibling} of {self._who}/{self._epoch}",
                group_size=self._setting.group_size,
                score=1.0 if same else float(sibling),
                producer=f"actor-{self._who}",
                epoch=self._epoch,
                sequence=next(self._sequences),
                query=query,
                turns=(an_answer_turn(version=version),),
                calls=calls,
            )
            for sibling in range(self._setting.group_size)
        ]

    def _hand_in(self, rollout: Rollout, name: str) -> None:
        """Until it is acknowledged, and sometimes again. An admission that a kill took back is asked for again."""
        data = encode_rollouts([rollout])
        offer = (rollout.group_id, rollout.oldest_version, rollout.query.query_id, content_digest(data))
        self._notes.add("offer", rollout.rollout_id, *offer)
        for _ in range(1 + (self._choices.random() < 0.2)):
            try:
                new = self._client.call("add", data)
            except ContractError as error:
                if not name or "was never admitted" not in str(error):
                    raise
                self._client.call("admit", group_id=name)
                new = self._client.call("add", data)
            self._notes.add("answer", rollout.rollout_id, new)


def told(folder: Path, who: str) -> list[list[Any]]:
    """What a process noted: lines of (what, …)."""
    return Notes(folder / who).read()


def _unfinished(notes: Notes) -> list[str]:
    """Groups that an earlier process of this producer left."""
    held = notes.read()
    finished = {line[1] for line in held if line[0] == "finished"}
    return [line[1] for line in held if line[0] == "group" and line[1] not in finished]


def query_of(who: int, epoch: int, count: int) -> str:
    """A name that no group and no rollout has."""
    return f"query-{content_digest(f'{who}/{epoch}/{count}'.encode())[:12]}"


def learner(*, number: int, folder: str, address: str, life: int, orphans: bool) -> None:
    notes, client = Notes(Path(folder) / "learner"), Client(address)
    choices = random.Random(f"kills/{number}/learner/{life}")
    kept = Path(folder) / "checkpoint"
    versions = itertools.count(
        1 + max((line[2] for line in notes.read() if line[0] in ("rewind", "advance")), default=-1)
    )

    def go_back(*, orphans: bool) -> int:
        step, version = int(kept.read_text()) if kept.exists() else 0, next(versions)
        notes.add("rewind", step, version)
        client.call("start", step=step, version=version, orphans=orphans)
        return step

    def sample(step: int) -> None:
        draw = client.call("sample", step=step)
        notes.add("sample", step, draw["ids"], draw["digest"])

    first = step = go_back(orphans=orphans)
    while True:
        sample(step)
        if choices.random() < 0.2:
            sample(choices.randint(max(first, step - 2), step))
        version = next(versions)
        notes.add("advance", step + 1, version)
        client.call("advance", step=step + 1, version=version)
        step += 1
        notes.add("learned", step)
        if choices.random() < 0.4:
            _keep(kept, step)
            if choices.random() < 0.5:
                client.call("release", step=step)
                first = step
        elif choices.random() < 0.1 or step - int(kept.read_text() if kept.exists() else 0) > 4:
            first = step = go_back(orphans=False)


def _keep(path: Path, step: int) -> None:
    """A checkpoint, durable and whole."""
    aside = path.with_name(".checkpoint")
    with aside.open("w") as file:
        file.write(str(step))
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
