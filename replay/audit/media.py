"""Kept media and what rollouts refer to: each is the other's, byte for byte.

`kept_media` knows how pictures lie on the disk and `references` which ones a record needs; nothing else here does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.columns import RolloutKeys
from common.errors import MediaError
from common.media import content_digest
from common.types import MediaRef
from replay.audit.erasures import Erasures
from replay.audit.findings import Findings
from replay.orphans import announced
from replay.packs import PackedMedia
from replay.reading import Place

_SHOWN = 12
"""Digits of a digest that tell pictures apart for a reader."""
_NUM_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaCount:
    """num_kept: pictures that lie in the replay, num_bytes their size. num_referred: distinct ones that rollouts need.

    referred_bytes: their size by the references, mentioned_bytes: the same counted once a rollout that needs one.
    """

    num_kept: int = 0
    num_bytes: int = 0
    num_referred: int = 0
    referred_bytes: int = 0
    mentioned_bytes: int = 0

    @property
    def dedupe_ratio(self) -> float | None:
        """Bytes that rollouts mention for each that needs keeping; None without media."""
        return self.mentioned_bytes / self.referred_bytes if self.referred_bytes else None


def kept_media(folder: Path) -> dict[str, int]:
    """Digest → bytes of every picture kept under the replay's `folder`, in packs or, as earlier versions left them,
    in files of their own.
    """
    return dict(PackedMedia(folder / "media").sizes())


def references(keys: RolloutKeys) -> tuple[MediaRef, ...]:
    """The pictures that a rollout needs, each once."""
    return keys.media


@dataclass(slots=True, kw_only=True)
class _Needed:
    num_bytes: int
    place: Place
    rollout_id: str


class References:
    """Collects what rollouts refer to: some hundred bytes of memory for each distinct picture."""

    def __init__(self) -> None:
        self._needed: dict[str, _Needed] = {}
        self._mentioned_bytes = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._needed

    def __iter__(self) -> Iterator[tuple[str, _Needed]]:
        return iter(self._needed.items())

    def add(self, keys: RolloutKeys, place: Place) -> None:
        for ref in references(keys):
            self._mentioned_bytes += ref.num_bytes
            if ref.digest not in self._needed:
                self._needed[ref.digest] = _Needed(num_bytes=ref.num_bytes, place=place, rollout_id=keys.rollout_id)

    def count(self, kept: Mapping[str, int]) -> MediaCount:
        return MediaCount(
            num_kept=len(kept),
            num_bytes=sum(kept.values()),
            num_referred=len(self._needed),
            referred_bytes=sum(needed.num_bytes for needed in self._needed.values()),
            mentioned_bytes=self._mentioned_bytes,
        )


def check_media(
    folder: Path,
    kept: Mapping[str, int],
    needed: References,
    erasures: Erasures,
    found: Findings,
    *,
    pruned: bool = False,
) -> None:
    """kept: listed before the log was read, so that what a live writer adds is no orphan of ours. What an unfinished
    erasure may have taken already is not missed.

    A writer that is killed between keeping a picture and logging its rollout leaves an orphan, and so does a rollout
    that is refused. That breaks no promise: orphans are named in a note. pruned: a live writer has pruned rollouts
    since they were read, and their pictures with them.
    """
    num_missing = 0
    store = PackedMedia(folder / "media")
    for digest, need in needed:
        what = f"rollout {need.rollout_id} refers to {digest[:_SHOWN]}…"
        if digest in store:
            if not _is_whole(store, digest):
                found.add("damaged media", f"{what}; other bytes lie under that name", need.place)
        elif digest not in erasures.going_media:
            num_missing += 1
            if not pruned:
                found.add("missing media", f"{what}, which the replay does not hold", need.place)
    if num_missing and pruned:
        found.note(f"{num_missing} pictures went while a live writer pruned rollouts: audit again")
    going = erasures.going_media | announced(folder / "media")
    unneeded = sorted(digest for digest in kept if digest not in needed)
    left = {digest for digest in unneeded if digest in erasures.gone_media and digest not in going}
    left = {digest for digest in left if not _came_since(store, digest, erasures.gone_media[digest])}
    for digest in sorted(left):
        found.add("erased", f"a picture of an erased source still lies there: {digest} ({kept[digest]} bytes)")
    orphans = [digest for digest in unneeded if digest not in left | going]
    if orphans:
        size = sum(kept[digest] for digest in orphans)
        shown = ", ".join(f"{digest[:_SHOWN]}…" for digest in orphans[:_NUM_SHOWN])
        found.note(
            f"{len(orphans)} orphan media ({size} bytes), to which no rollout refers: {shown}; a writer was killed or "
            "is alive, or a rollout was refused"
        )


def _came_since(store: PackedMedia, digest: str, time_ns: int) -> bool:
    """Whether a picture lies only in packs that were begun after this time: somebody sent it again."""
    return store.oldest_ns(digest) > time_ns


def _is_whole(store: PackedMedia, digest: str) -> bool:
    try:
        return content_digest(store.get(digest)) == digest
    except MediaError:
        return False
