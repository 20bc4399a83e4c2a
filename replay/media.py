"""Durable media: the pictures that kept rollouts refer to, by content, beside the log.

The live store is in shared memory and forgets; a rollout is acknowledged only when its views and images lie here. The
same content is copied once, and of a picture that is a cut of another one the recipe. What the live store has forgotten
is put back when a draw needs it. Pictures are appended to packs (replay/packs); what is asked for together shares a
sync, and so do threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from common.cuts import Cut
from common.errors import ContractError, DiskFull, MediaError, ReplayError
from common.media import FolderMediaStore
from common.types import MediaRef
from replay.disk import Disk, SyncFailed, begin_file, refusal, write_all, write_whole
from replay.frames import ALIGN, Bytes
from replay.packs import (
    PICTURE,
    RECIPE,
    Pack,
    PackedMedia,
    Place,
    entry,
    index_of,
    leave_out_of,
    pack_header,
    read_entry,
)
from replay.proving import Prover
from replay.recipes import made, pack_recipe, unpack_recipe

NUM_REMEMBERED = 1 << 16
"""Digests known to be durable, so that a picture that many rollouts show is not looked for again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Pictures to keep. cuts: which of them may be parts of others. proven: as in Inspected (replay/inspecting)."""

    refs: tuple[MediaRef, ...]
    cuts: tuple[Cut, ...] = ()
    proven: Set[str] | None = None


class _Pin(AbstractContextManager[None]):
    def __init__(self, media: DurableMedia, digests: Set[str]) -> None:
        self._media, self._digests = media, digests

    def __enter__(self) -> None:
        self._media._pin(self._digests)

    def __exit__(self, *_: object) -> None:
        self._media._unpin(self._digests)


class DurableMedia:
    """The one writer of a folder of packs; whoever holds the log's lock. Safe for many threads of one process.

    A pack is begun when there is something to keep and ended at `pack_bytes`. sync: False skips every fsync (durability
    "os"). index_error: why the last index could not be written, "" where it was. After a failed sync everything raises
    ReplayError, for ever: what the disk holds is then unknown.
    """

    def __init__(
        self,
        folder: Path,
        *,
        live: FolderMediaStore,
        sync: bool = True,
        pack_bytes: int = 256 << 20,
        disk: Disk | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._disk = disk or Disk()
        self._live = live
        self._sync = sync
        self._pack_bytes = pack_bytes
        self._appending, self._syncing, self._pinning = threading.Lock(), threading.Lock(), threading.Lock()
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._pinned: Counter[str] = Counter()
        self._asked: set[str] | None = None
        self._going: Set[str] = frozenset()
        self._broken = self.index_error = ""
        self._file = -1
        self._ended: list[int] = []
        self._size = self._durable = 0
        self._entries: dict[str, Place] = {}
        self._disk.make_folder(self.folder)
        for aside in self.folder.glob(".aside-*"):
            self._disk.unlink(aside)
        self._has_singles = any(self.folder.glob("??"))
        self.store = PackedMedia(self.folder)
        for pack in self.store.packs:
            if not pack.has_index:
                self._adopt(pack)
        self._number = max((pack.number for pack in self.store.packs), default=-1) + 1
        self.store = PackedMedia(self.folder)

    def pinned(self, refs: Iterable[MediaRef]) -> AbstractContextManager[None]:
        """Until the end of this, these pictures are not removed: a rollout that shows them is being kept."""
        return _Pin(self, {ref.digest for ref in refs})

    def _pin(self, digests: Set[str]) -> None:
        with self._pinning:
            for digest in digests:
                self._pinned[digest] += 1
            if self._asked is not None:
                self._asked |= digests

    def _unpin(self, digests: Set[str]) -> None:
        with self._pinning:
            for digest in digests:
                if self._pinned[digest] == 1:
                    del self._pinned[digest]
                else:
                    self._pinned[digest] -= 1

    def remove(self, unneeded: Callable[[], set[str]]) -> tuple[set[str], set[str]]:
        """Remove the pictures that no rollout of the log refers to; `unneeded` says which. What is pinned meanwhile
        stays. Returns what went and what stayed. Raises OSError as the disk does.
        """
        with self._appending:
            if self._file >= 0 and not self._broken:
                self._end()
            ended = self.store.as_it_is()
            with self._pinning:
                self._asked = set(self._pinned)
        found = set[str]()
        try:
            found = unneeded()
        finally:
            with self._appending, self._pinning:
                self._going = going = found - self._asked
                self._asked = None
                for digest in going:
                    self._kept.pop(digest, None)
        try:
            self._disk.sync_folder(self.folder)  # a killed process may have replaced packs
            leave_out_of(ended, going, self._disk)
            for path in (self._single_path(digest) for digest in sorted(going)):
                if path.is_file():
                    self._disk.unlink(path)
                    self._disk.sync_folder(path.parent)
        finally:
            with self._appending:
                self.store.refresh()
                self._going = frozenset()
        return going, found - going

    def holds(self, refs: Iterable[MediaRef]) -> bool:
        """Whether these are known to be durable, so that nobody need wait for them."""
        return all(ref.digest in self._kept for ref in refs)

    def keep(self, refs: Iterable[MediaRef], cuts: Sequence[Cut] = ()) -> int:
        """Append what is not here yet and make all of it durable. Returns the bytes appended.

        cuts: which of them may be a part of another; a picture that is, to the last pixel, takes 128 bytes.

        Raises ContractError when the live store does not hold a picture or holds other bytes under its name,
        ReplayError when the disk refuses (DiskFull where room is all that it lacks); nothing of the picture is kept.
        """
        [kept], digests = self.append_all([Wanted(tuple(refs), tuple(cuts))])
        self.sync(digests)
        if not isinstance(kept, int):
            raise kept
        return kept

    def append_all(self, wanted: Iterable[Wanted]) -> tuple[list[int | ContractError | DiskFull], tuple[str, ...]]:
        """The first half of `keep` for many: what each returned, or why it was refused, and the digests that `sync`
        must make durable before anybody is told. Raises ReplayError as `keep`, where it is the end for all.
        """
        kept, durable, prover = list[int | ContractError | DiskFull](), dict[str, None](), Prover(self._live)
        for one in wanted:
            missing = [ref for ref in one.refs if ref.digest not in self._kept]
            try:
                kept.append(self._append_all(missing, one, prover))
                durable |= dict.fromkeys(ref.digest for ref in missing)
            except (ContractError, DiskFull) as error:
                kept.append(error)
        return kept, tuple(durable)

    def sync(self, digests: Sequence[str]) -> None:
        """Make pictures that were appended durable; others may be appended meanwhile. Raises ReplayError."""
        if not digests:
            return
        self._make_durable()
        with self._appending:
            self._kept.update(dict.fromkeys(digests))
            while len(self._kept) > NUM_REMEMBERED:
                self._kept.popitem(last=False)

    def _append_all(self, refs: Sequence[MediaRef], wanted: Wanted, prover: Prover) -> int:
        """What may be cut from others comes after them."""
        ways: dict[str, list[Cut]] = {ref.digest: [] for ref in refs}
        for cut in wanted.cuts:
            if cut.target.digest in ways:
                ways[cut.target.digest].append(cut)
        order = sorted(ways, key=lambda digest: bool(ways[digest]))
        return sum(self._append(digest, ways[digest], wanted.proven, prover) for digest in order)

    def restore(self, refs: Iterable[MediaRef]) -> None:
        """Put back into the live store what it no longer holds. Raises MediaError when it is not here either."""
        for ref in refs:
            if ref.digest not in self._live:
                self._live.put(self.get(ref.digest), kind=ref.kind, width=ref.width, height=ref.height)

    def get(self, digest: str) -> bytes:
        """The bytes, checked. Raises MediaError when they are not here or damaged."""
        with self._appending:
            place = self._entries.get(digest)
            if place is None or self._file < 0:
                return self.store.get(digest)
            raw = os.pread(self._file, place.end - place.offset + ALIGN, place.offset - ALIGN)
        if read_entry(raw, 0) != (digest, Place(ALIGN, place.length, place.form)):
            raise MediaError(f"media {digest[:12]}… is damaged in {self._path(self._number)}")
        body = raw[ALIGN : ALIGN + place.length]
        return body if place.form == PICTURE else bytes(made(unpack_recipe(digest, body), self.get))

    def close(self) -> None:
        """End the pack, so that its index need not be found by a walk. Raises ReplayError when its sync fails."""
        try:
            with self._appending:
                if self._file >= 0 and not self._broken:
                    self._end()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Write nothing more, as if the process had been killed; who is about to keep something gets ReplayError."""
        with self._syncing, self._appending:
            self._broken = self._broken or "they were closed"
            self._close_ended()
            if self._file >= 0:
                self._disk.close(self._file)
                self._file = -1

    def _append(self, digest: str, cuts: Sequence[Cut], proven: Set[str] | None, prover: Prover) -> int:
        """Append one picture unless it is here. Returns its bytes."""
        with self._appending:
            if self._is_here(digest):
                return 0
            cuts = [cut for cut in cuts if self._holds_pixels(cut.source.digest)]
            if proven is not None and cuts:
                return self._write(digest, pack_recipe(cuts[0]), RECIPE)
        cut = next((cut for cut in cuts if prover.is_cut(cut)), None) if proven is None else None
        whole = prover.picture(digest, proven=proven is not None and digest in proven) if cut is None else None
        with self._appending:
            if self._is_here(digest):
                return 0
            if cut is not None:
                return self._write(digest, pack_recipe(cut), RECIPE)
            assert whole is not None
            return self._write(digest, whole, PICTURE)

    def _write(self, digest: str, body: Bytes, form: int) -> int:
        """At the end of the pack, under the lock. Returns its bytes."""
        if self._file >= 0 and self._size + ALIGN + len(body) > self._pack_bytes:
            self._end()
        if self._file < 0:
            self._begin()
        place = Place(self._size + ALIGN, len(body), form)
        try:
            write_all(self._disk, self._file, entry(digest, body, form))
        except OSError as error:
            self._cut_back(error)
            raise refusal(self.folder, "a write failed; nothing of it is kept", error) from error
        self._entries[digest] = place
        self._size = place.end
        return len(body)

    def _holds_pixels(self, digest: str) -> bool:
        """Whether it is kept as it is, so that others may be cut from it."""
        place = self._entries.get(digest)
        if place is not None:
            return place.form == PICTURE
        return digest not in self._going and self.store.holds_pixels(digest)

    def _is_here(self, digest: str) -> bool:
        if self._broken:
            raise ReplayError(f"{self.folder}: media cannot be kept since {self._broken}")
        if digest in self._entries:
            return True
        return digest not in self._going and (self.store.find(digest) is not None or self._single(digest))

    def _single(self, digest: str) -> bool:
        """Whether an earlier version left it as a file of its own; its content is durable, its name may not be."""
        if not self._has_singles:
            return False
        path = self._single_path(digest)
        if path.is_file() and self._sync:
            try:
                self._disk.sync_folder(path.parent)
            except OSError as error:
                self._broken = f"a sync failed: {error.strerror}"
                raise ReplayError(f"{self.folder}: {self._broken}; restart to read back what the disk holds") from error
        return path.is_file()

    def _single_path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _make_durable(self) -> None:
        """One sync for everything that was appended before it began."""
        with self._appending:
            file, number, wanted = self._file, self._number, self._size
        if not self._sync or file < 0:
            return
        with self._syncing:
            self._close_ended()
            if self._broken:
                raise ReplayError(f"{self.folder}: media cannot be kept since {self._broken}")
            with self._appending:
                if self._number != number or self._durable >= wanted:
                    return  # the pack was ended, durable as a whole, or another thread has synced for this one
                wanted = self._size
            self._sync_file(file)
            self._durable = wanted

    def _sync_file(self, file: int) -> None:
        try:
            self._disk.sync(file)
        except OSError as error:
            self._broken = f"fdatasync failed: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}; restart to read back what the disk holds") from error

    def _cut_back(self, error: OSError) -> None:
        try:
            self._disk.truncate(self._file, self._size)
        except OSError:
            self._broken = f"a write and the cut after it failed: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}") from error

    def _begin(self) -> None:
        """A pack appears whole: its header is durable before its name is."""
        header = pack_header(self._number, time.time_ns())
        try:
            file = begin_file(self._disk, self._path(self._number), header, sync=self._sync)
        except SyncFailed as error:
            self._broken = f"a pack could not be started, a sync failed: {error.strerror}"
            raise ReplayError(f"{self.folder}: {self._broken}; restart to read back what the disk holds") from error
        except OSError as error:
            raise refusal(self.folder, "a pack could not be started", error) from error
        self._file, self._size, self._durable = file, ALIGN, ALIGN
        self._entries = {}

    def _end(self) -> None:
        """Sync the pack, write its index and read it like every other from now on. Without an index, which is derived,
        it is walked, and the next opening makes one.
        """
        if self._sync:
            self._sync_file(self._file)
            self._ended.append(self._file)  # a thread may be syncing it
        else:
            self._disk.close(self._file)
        self._file = -1
        self._write_index(self._number, self._size, self._entries)
        self._number += 1
        self._entries = {}
        self.store.refresh()

    def _close_ended(self) -> None:
        """Under the lock of syncs, so that no other thread is syncing one of them."""
        while self._ended:
            self._disk.close(self._ended.pop())

    def _adopt(self, pack: Pack) -> None:
        """A pack that a killed process left: what is whole in it becomes durable, and gets an index. A recipe whose
        source is not here was never acknowledged, and is left out.
        """
        if self._sync:
            file = self._disk.open(pack.path)
            try:
                self._sync_file(file)
            finally:
                self._disk.close(file)
        alone = {cut.target.digest for cut in pack.recipes() if cut.source.digest not in self.store}
        entries = {digest: place for digest, place in pack.entries().items() if digest not in alone}
        self._write_index(pack.number, len(pack.data), entries)

    def _write_index(self, number: int, num_bytes: int, entries: dict[str, Place]) -> None:
        path = self._path(number).with_suffix(".index")
        try:
            write_whole(self._disk, path, index_of(number, num_bytes, entries), sync=self._sync)
            self.index_error = ""
        except OSError as error:
            self.index_error = f"{error.strerror}"

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.pack"
