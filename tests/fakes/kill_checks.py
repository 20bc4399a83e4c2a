"""What must hold after a round of kills: what every process was told, against what the replay holds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakes.history import History, Workload, check
from fakes.kill_parts import told
from fakes.kill_setting import PHASE, Setting
from fakes.values import a_rollout, an_answer_turn

from common.media import content_digest
from common.schema import rollout_keys
from replay.audit.audit import audit_replay
from replay.audit.lines import Learned
from replay.records import Erase, Experience, Kind, decode
from replay.segments import read_frames


def audit(folder: Path) -> list[str]:
    """What an audit finds in the replay as it lies."""
    kept = folder / "checkpoint"
    learned = Learned(
        phases=frozenset({PHASE}),
        cursor=(PHASE, int(kept.read_text())) if kept.exists() else None,
        steps={PHASE: Counter(line[1] for line in told(folder, "learner") if line[0] == "learned")},
    )
    return [f"{found.rule}: {found.what}" for found in audit_replay(folder / "replay", learned=learned).violations]


def broken_promises(folder: Path, setting: Setting) -> list[str]:
    """Every promise that was not kept, one line each."""
    history = History()
    for line in told(folder, "learner"):
        what, step, value = line[:3] if len(line) > 2 else (line[0], 0, ())
        if what != "learned":
            history.learner.append((what, step, tuple(value) if isinstance(value, list) else value))
    for what, name, *more in _producers(folder):
        if what == "offer":
            group, version = more[0], more[1]
            turns = (an_answer_turn(version=version),)
            size = setting.group_size
            history.offered[name] = a_rollout(group, rollout_id=name, group_size=size, version=version, turns=turns)
        elif what == "answer":
            history.answers.append((name, more[0]))
    load = Workload(
        seed=setting.number,
        groups_per_step=setting.groups_per_step,
        group_size=setting.group_size,
        lag=setting.lag,
    )
    return [
        *check(history, folder / "replay", load, max_reuse=setting.drawing.max_reuse, killed=True),
        *_other_contents(folder),
        *_lost_experiences(folder),
        *_drawn_otherwise(folder),
        *_left_of_sources(folder),
    ]


def erased_rollouts(folder: Path, source: str) -> list[str]:
    """Ids of the rollouts of a query that were offered, if its erasure was begun; none if it was not."""
    digest = content_digest(source.encode())
    begun = any(record.source == digest for _, record in _records(folder) if isinstance(record, Erase))
    return [line[1] for line in _producers(folder) if line[0] == "offer" and line[4] == source] if begun else []


def sources(folder: Path) -> list[str]:
    """Queries of which a rollout was acknowledged, in the order of their first."""
    answered = {line[1] for line in _producers(folder) if line[0] == "answer"}
    return list(dict.fromkeys(line[4] for line in _producers(folder) if line[0] == "offer" and line[1] in answered))


def _producers(folder: Path) -> Iterator[list[Any]]:
    return itertools.chain.from_iterable(told(folder, path.name) for path in sorted(folder.glob("producer-*")))


def _records(folder: Path) -> Iterator[tuple[int, Any]]:
    for frame in read_frames(folder / "replay" / "log"):
        if frame.kind != Kind.ROLLOUT:
            yield frame.sequence, decode(frame.kind, bytes(frame.body))


def _other_contents(folder: Path) -> list[str]:
    """Every rollout is kept to the byte as it was offered."""
    offered = {line[1]: line[5] for line in _producers(folder) if line[0] == "offer"}
    broken = []
    for frame in read_frames(folder / "replay" / "log"):
        if frame.kind == Kind.ROLLOUT:
            body = bytes(frame.body)
            [keys] = rollout_keys(body)
            if offered.get(keys.rollout_id) != content_digest(body):
                broken.append(f"{keys.rollout_id} is kept with other bytes than were offered")
    return broken


def _lost_experiences(folder: Path) -> list[str]:
    erased = {line[3] for line in told(folder, "learner") if line[0] == "erase"}
    held = {(record.query_id, at) for at, record in _records(folder) if isinstance(record, Experience)}
    answered = {(line[1], line[2]) for line in _producers(folder) if line[0] == "remembered"}
    return [
        f"experience {at} of {query} was acknowledged and is missing"
        for query, at in sorted(answered - held)
        if query not in erased
    ]


def _drawn_otherwise(folder: Path) -> list[str]:
    """A step that was asked for again in its line was answered to the byte as before."""
    broken: list[str] = []
    line: dict[int, str] = {}
    for what, step, *more in told(folder, "learner"):
        if what == "sample" and line.setdefault(step, more[1]) != more[1]:
            broken.append(f"step {step} was asked for again and its rollouts had other bytes")
        elif what == "rewind":
            line = {at: digest for at, digest in line.items() if at < step}
        elif what == "erase":
            line = {}
    return broken


def _left_of_sources(folder: Path) -> list[str]:
    """An erased source's name is in no file of the replay."""
    gone = [line[3].encode() for line in told(folder, "learner") if line[0] == "erase"]
    files = [path for path in sorted((folder / "replay").rglob("*")) if path.is_file()] if gone else []
    return [f"{path.name} still names an erased source" for path in files if any(n in path.read_bytes() for n in gone)]
