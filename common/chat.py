r"""Turns text, pictures and tool results into tokens: the only owner of the chat format and of the vision-token
contract.

ChatML with Hermes tool calls. A rollout is a row of turns whose token ids, concatenated, are exactly what the trainer
sees:

    user       <|im_start|>user\n … <|im_end|>\n<|im_start|>assistant\n
    assistant  what the engine sampled, <|im_end|> included
    tool       \n<|im_start|>user\n<tool_response> … </tool_response><|im_end|>\n<|im_start|>assistant\n

Everything around an assistant's turn belongs to its neighbours, so an assistant's turn holds sampled ids only. Text is
tokenised once, when a turn is made, and never again. A picture is `<|vision_start|>` + n × `<|image_pad|>` +
`<|vision_end|>`
with n fixed by its size; engines want one pad a picture (`collapse`), trainers want all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError, ModelError
from common.media import content_digest
from common.types import MediaRef, Query, Sampling, Turn

PLACEHOLDERS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|im_start|>",
)
"""Tokens that only the chat format may write: banned in the sampler and in the trainer alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """How a model cuts a picture into visual tokens: patches of `patch` px, `merge`² patches a token."""

    patch: int
    merge: int
    min_pixels: int
    max_pixels: int

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size a picture is resized to: multiples of patch·merge with the area within bounds (Qwen2-VL's rule)."""
        factor = self.patch * self.merge
        rows, columns = round(height / factor) * factor, round(width / factor) * factor  # 0 for a sliver
        if rows * columns > self.max_pixels:
            beta = math.sqrt(height * width / self.max_pixels)
            rows = max(factor, math.floor(height / beta / factor) * factor)
            columns = max(factor, math.floor(width / beta / factor) * factor)
        elif rows * columns < self.min_pixels:
            beta = math.sqrt(self.min_pixels / (height * width))
            rows, columns = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
        return max(factor, columns), max(factor, rows)

    def grid(self, view: MediaRef) -> tuple[int, int, int]:
        """(1, rows, columns) of patches. A view is already of a fitting size."""
        if self.fit(view.width, view.height) != (view.width, view.height):
            raise ContractError(f"a view of {view.width}×{view.height} px does not fit patches of {self.patch} px")
        return 1, view.height // self.patch, view.width // self.patch

    def num_tokens(self, view: MediaRef) -> int:
        _, rows, columns = self.grid(view)
        return rows * columns // self.merge**2


def canonical_json(value: Any) -> str:
    """Compact JSON with sorted keys and `<` escaped, so that text read from a picture cannot open or close a turn or a
    call.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


class Chat:
    """Tokens of one model family. Build with `Chat.from_model`."""

    def __init__(self, tokenizer: Any, vision: VisionShape, *, system: str = "") -> None:
        self._tokenizer = tokenizer
        self.vision = vision
        self.system = system
        self.image_pad = self._id("<|image_pad|>")
        self.end_of_turn = self._id("<|im_end|>")
        self.vocabulary_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self.banned: tuple[int, ...] = tuple(
            sorted(i for i in map(tokenizer.token_to_id, PLACEHOLDERS) if i is not None)
        )

    @classmethod
    def from_model(cls, folder: Path, *, system: str = "") -> Chat:
        """Read the tokenizer and the processor's sizes of a model directory. Raises ModelError, one line."""
        from tokenizers import Tokenizer

        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                f"{folder}: no tokenizer.json; give a folder that holds a model, its tokenizer and its processor"
            )
        return cls(Tokenizer.from_file(str(file)), vision_shape(Path(folder)), system=system)

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ModelError(f"the tokenizer has no {token}; a Qwen-VL style chat tokenizer is needed")
        return int(found)

    @property
    def digest(self) -> str:
        """blake3 of the tokenizer, hexadecimal: its vocabulary, its merges, and how it splits text."""
        values = json.loads(self._tokenizer.to_str())
        kept = {key: values.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
        return content_digest(json.dumps(kept, sort_keys=True).encode())

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @lru_cache(maxsize=4096)  # noqa: B019  one Chat lives as long as its process
    def _encode_cached(self, text: str) -> tuple[int, ...]:
        return tuple(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_all(self, ids: Sequence[int]) -> str:
        """The text of any ids, special tokens shown."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    # Turns

    def question(self, query: Query, views: Sequence[MediaRef]) -> Turn:
        """The opening turn: pictures, or a clip's frames each preceded by its name and second, then the question."""
        head = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system else ""
        pieces: list[str | MediaRef] = [f"{head}<|im_start|>user\n"]
        if query.clip is not None:
            for index, view in zip(query.clip.shown, views, strict=True):
                pieces += [_frame_name(index, query.clip.times_s[index]), view]
        else:
            pieces += list(views)
        pieces.append(f"{plain(query.question)}<|im_end|>\n<|im_start|>assistant\n")
        return self._turn("user", pieces)

    def pictures(self, views: Sequence[MediaRef], times_s: Sequence[float] | None) -> Turn:
        """Pictures alone, with the names and seconds of frames where times are given: what a caption describes."""
        pieces: list[str | MediaRef] = []
        for index, view in enumerate(views):
            pieces += [view] if times_s is None else [_frame_name(index, times_s[index]), view]
        return self._turn("user", pieces)

    def observation(self, text: str, view: MediaRef | None) -> Turn:
        """The turn that answers a tool call; `text` is canonical JSON."""
        seen = [] if view is None else [view]
        return self.tool_turn([f"<tool_response>{text}", *seen, "</tool_response>"])

    def tool_turn(self, pieces: Iterable[str | MediaRef], *, opens: bool = True, closes: bool = True) -> Turn:
        """What came back of a call, in any words. A message may be several turns, one a call: the first opens it, the
        last closes it.
        """
        head, tail = "\n<|im_start|>user\n" * opens, "<|im_end|>\n<|im_start|>assistant\n" * closes
        return self._turn("tool", [head, *pieces, tail])

    def written(self, text: str) -> tuple[int, ...]:
        """Ids of an assistant's turn that someone else wrote (a trace), closed by <|im_end|>."""
        return (*self.encode(text), self.end_of_turn)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [first, last) of `text` that each token of `encode(text)` stands for."""
        return [
            (int(first), int(last)) for first, last in self._tokenizer.encode(text, add_special_tokens=False).offsets
        ]

    def _turn(self, role: Any, pieces: Iterable[str | MediaRef]) -> Turn:
        ids: list[int] = []
        images: list[MediaRef] = []
        text = ""
        for piece in (*pieces, None):
            if isinstance(piece, str):
                text += piece  # text between two pictures is tokenised as one piece, as the model's own template would
                continue
            ids += self._encode_cached(text) if text else ()
            text = ""
            if piece is not None:
                pads = [self.image_pad] * self.vision.num_tokens(piece)
                ids += [self._id("<|vision_start|>"), *pads, self._id("<|vision_end|>")]
                images.append(piece)
        return Turn(role=role, token_ids=tuple(ids), images=tuple(images))

    # The vision-token contract

    def collapse(self, ids: Sequence[int]) -> list[int]:
        """One placeholder a picture, as engines want it. Undone by expanding each to its picture's token count."""
        pad = self.image_pad
        return [token for i, token in enumerate(ids) if token != pad or i == 0 or ids[i - 1] != pad]

    def check(self, turns: Sequence[Turn]) -> None:
        """Raises ContractError when placeholders and pictures disagree, or an assistant's turn breaks its contract."""
        for index, turn in enumerate(turns):
            wanted = [self.vision.num_tokens(view) for view in turn.images]
            if self.pad_runs(turn.token_ids) != wanted:
                raise ContractError(
                    f"turn {index}: runs of placeholders {self.pad_runs(turn.token_ids)}, pictures want {wanted}"
                )
            if turn.role != "assistant":
                continue
            if len(turn.logprobs) != len(turn.token_ids):
                raise ContractError(
                    f"turn {index}: {len(turn.token_ids)} sampled ids but {len(turn.logprobs)} log-probs"
                )
            if not all(math.isfinite(value) for value in turn.logprobs):
                raise ContractError(f"turn {index}: a log-prob is not finite")
            if set(turn.token_ids) & set(self.banned):
                raise ContractError(f"turn {index}: a placeholder was sampled")

    def pad_runs(self, ids: Sequence[int]) -> list[int]:
        """Lengths of the runs of image placeholders, in order."""
        runs: list[int] = []
        previous = -1
        for token in ids:
            if token == self.image_pad:
                if previous == self.image_pad:
                    runs[-1] += 1
                else:
                    runs.append(1)
            previous = token
        return runs

    def rope_positions(self, ids: Sequence[int], grids: Sequence[tuple[int, int, int]]) -> NDArray[np.int64]:
        """Three position rows (time, height, width), shape (3, tokens): Qwen2.5-VL's M-RoPE for text and still
        pictures.

        Text advances all three together; a picture's tokens share one time and take its rows and columns; the text
        after it
        goes on from the larger side (transformers' `get_rope_index`, which a test compares with).
        """
        positions = np.zeros((3, len(ids)), np.int64)
        pending = iter(grids)
        at = now = 0
        while at < len(ids):
            if ids[at] != self.image_pad:
                positions[:, at] = now
                at, now = at + 1, now + 1
                continue
            _, rows, columns = next(pending)
            rows, columns = rows // self.vision.merge, columns // self.vision.merge
            span = slice(at, at + rows * columns)
            positions[0, span] = now
            positions[1, span] = now + np.repeat(np.arange(rows), columns)
            positions[2, span] = now + np.tile(np.arange(columns), rows)
            at, now = at + rows * columns, now + max(rows, columns)
        return positions


def _frame_name(index: int, time_s: float) -> str:
    return f"frame_{index + 1} {time_s:.1f}s\n"


def plain(text: str) -> str:
    """A user's words, unable to open or close a turn."""
    return text.replace("<|", "< |")


def greedy(max_tokens: int) -> Sampling:
    return Sampling(temperature=0.0, max_tokens=max_tokens)


def vision_shape(folder: Path) -> VisionShape:
    """Sizes from the processor's own files. Raises ModelError, one line."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        if file.is_file():
            values = json.loads(file.read_text())
            values = values.get("image_processor", values)
            size = values.get("size") or {}
            return VisionShape(
                patch=int(values["patch_size"]),
                merge=int(values["merge_size"]),
                min_pixels=int(size.get("shortest_edge") or values["min_pixels"]),
                max_pixels=int(size.get("longest_edge") or values["max_pixels"]),
            )
    raise ModelError(f"{folder}: no preprocessor_config.json; the model's processor is needed")
