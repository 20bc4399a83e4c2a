"""Whether pictures are what rollouts say: a picture by its hash, a part of another one by making it again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.cuts import Cut, cut_out
from common.errors import ContractError, MediaError
from common.media import FolderMediaStore, content_digest
from common.types import MediaRef
from replay.frames import Bytes

NUM_REMEMBERED = 1 << 16
"""Files whose bytes are known to be what they are called."""
MAPS_AT_ONCE = 8
"""Pictures that are kept mapped: each takes a file descriptor."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What is true of a rollout's pictures. whole: digests that lie in the live store as they are called. cuts: parts
    of others that are what they are said to be; they need not lie there, and were not looked for.
    """

    whole: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()


class Prover:
    """Looks into the live store for one batch; a picture that was just looked at is mapped already."""

    def __init__(self, live: FolderMediaStore) -> None:
        self._live = live
        self._maps: dict[str, Bytes] = {}

    def picture(self, digest: str, *, proven: bool = False) -> Bytes:
        """The bytes where they lie. proven: they were compared before. Raises ContractError when the live store does
        not hold the picture, or holds other bytes under its name.
        """
        try:
            data = self._mapped(digest)
        except MediaError as error:
            raise ContractError(f"a rollout refers to media that this node does not hold: {error}") from error
        if not proven and content_digest(data) != digest:
            raise ContractError(f"the live store holds other bytes under {digest[:12]}…")
        return data

    def is_cut(self, cut: Cut) -> bool:
        """Whether the picture is what `cut` says, to the last pixel."""
        try:
            data = cut_out(cut, self._mapped(cut.source.digest))
        except MediaError:  # the live store forgets; nobody can tell then
            return False
        return data is not None and content_digest(data) == cut.target.digest

    def _mapped(self, digest: str) -> Bytes:
        if digest not in self._maps:
            if len(self._maps) == MAPS_AT_ONCE:
                del self._maps[next(iter(self._maps))]
            self._maps[digest] = memoryview(self._live.mapped(digest))
        return self._maps[digest]


class Proofs:
    """Of the pictures of rollouts that come; a file that was compared is not compared again."""

    def __init__(self, live: FolderMediaStore) -> None:
        self._live = live
        self._right: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def of_all(self, rollouts: Iterable[tuple[Sequence[MediaRef], Sequence[Cut]]]) -> list[Proven]:
        """Of each, given its pictures and which of them may be parts of others."""
        prover = Prover(self._live)
        return [self._of(refs, guesses, prover) for refs, guesses in rollouts]

    def _of(self, refs: Sequence[MediaRef], guesses: Sequence[Cut], prover: Prover) -> Proven:
        cuts: dict[str, Cut] = {}
        for cut in guesses:
            if cut.target.digest not in cuts and prover.is_cut(cut):
                cuts[cut.target.digest] = cut
        others = [ref.digest for ref in refs if ref.digest not in cuts]
        return Proven(tuple(digest for digest in others if self._is_right(digest, prover)), tuple(cuts.values()))

    def _is_right(self, digest: str, prover: Prover) -> bool:
        stamp = self._live.stamp(digest)
        if stamp is None:
            return False
        if self._right.get(digest) != stamp:
            try:
                prover.picture(digest)
            except ContractError:
                return False  # whoever keeps it finds the same, and says so
            self._right[digest] = stamp
            if len(self._right) > NUM_REMEMBERED:
                self._right.popitem(last=False)
        return True
