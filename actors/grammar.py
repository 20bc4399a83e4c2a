r"""The grammar that a turn can be sampled under: free words, then a call that cannot be malformed.

From a tool's arguments (the same dataclasses that check a call) follows a grammar in xgrammar's EBNF: one JSON object
with the tool's name and its arguments, keys in any order, none twice, every required one there, each value of its type
and reference of its kind. What the values are stays free: a box may be empty, a name may stand for nothing. Around it
stands a structural tag: text is free until it opens a call; the call must then be one of these, and the turn ends.

Where the grammar excludes a token, what the engine returns is the log-prob of the distribution without it: forced
tokens show 0.0. Such tokens must not be learned from. `Shaped` finds them by walking the sampled tokens through the
same matcher: a token is shaped where anything else than what is never sampled was excluded. Words before a call and
answers are not shaped, so they are learned from as ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from actors.dialogue import CALL_CLOSES, CALL_OPENS

_BASE = (
    "ws ::= [ \\n]{0,2}",
    'character ::= [^"\\\\\\x00-\\x1f<] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    'integer ::= "-"? ("0" | [1-9] [0-9]{0,18})',
    'number ::= integer ("." [0-9]+)? ([eE] ("-" [0-9]{1,3} | "+"? [0-9]{1,2}))?',
)
"""`<` is written escaped inside a call (actors/dialogue), so no text can close it. Numbers are short: finite."""
_REFERENCE = re.compile(r"\^\((?P<kinds>[a-z|]+)\)_\[1-9\]\[0-9\]\{0,5\}\$")


def call_grammar(tools: Mapping[str, type]) -> str:
    """The EBNF of one call: what stands between <tool_call> and </tool_call>. tools: name → arguments' dataclass."""
    rules = [*_BASE]
    starts: list[str] = []
    for number, (name, kind) in enumerate(tools.items()):
        found = msgspec.json.schema(kind)
        value = _Rules(found.get("$defs", {}), rules, prefix=f"t{number}").value(found)
        starts.append(f't{number}_call ::= "{{" ws {_key("name")} {_text(json.dumps(name))} ws "," ws ')
        starts[-1] += f'{_key("arguments")} {value} ws "}}"'
    root = " | ".join(f"t{number}_call" for number in range(len(tools)))
    return "\n".join((f"root ::= ws ({root}) ws", *starts, *rules))


def turn_grammar(tools: Mapping[str, type]) -> str:
    """The structural tag of a turn, as JSON for the engine."""
    content = {"type": "grammar", "grammar": call_grammar(tools)}
    tag = {"type": "tag", "begin": CALL_OPENS, "content": content, "end": CALL_CLOSES}
    form = {"type": "triggered_tags", "triggers": [CALL_OPENS], "tags": [tag], "stop_after_first": True}
    return json.dumps({"type": "structural_tag", "format": form})


def _text(text: str) -> str:
    """A literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _key(name: str) -> str:
    return f'{_text(json.dumps(name))} ws ":" ws'


class _Rules:
    """Writes the rules of one tool's JSON schema (the part of JSON schema that dataclasses of arguments need)."""

    def __init__(self, definitions: Mapping[str, Any], rules: list[str], *, prefix: str) -> None:
        self._definitions = definitions
        self._rules = rules
        self._prefix = prefix
        self._count = 0

    def value(self, schema: Mapping[str, Any]) -> str:
        """An expression for the JSON values of `schema`. Raises NotImplementedError for one no tool has needed yet."""
        if "$ref" in schema:
            return self.value(self._definitions[str(schema["$ref"]).removeprefix("#/$defs/")])
        if "enum" in schema:
            return _either(_text(json.dumps(choice)) for choice in schema["enum"])
        if "anyOf" in schema:
            return _either(self.value(option) for option in schema["anyOf"])
        match schema.get("type"):
            case "null" | "integer" | "number" as name:
                return '"null"' if name == "null" else str(name)
            case "boolean":
                return '("true" | "false")'
            case "string":
                return _string(schema)
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema)
        raise NotImplementedError(f"no grammar for {schema}")

    def _array(self, schema: Mapping[str, Any]) -> str:
        if "prefixItems" in schema:
            items = ' ws "," ws '.join(self.value(item) for item in schema["prefixItems"])
            return f'("[" ws {items} ws "]")'
        item = self.value(schema["items"])
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        more = f"{{{max(0, least - 1)},{'' if most is None else most - 1}}}"
        some = f'{item} (ws "," ws {item}){more} ws'
        return f'("[" ws {some} "]")' if least else f'("[" ws ({some})? "]")'

    def _object(self, schema: Mapping[str, Any]) -> str:
        """One rule for each set of keys already written: what may follow it, and whether the object may end."""
        self._count += 1
        name = f"{self._prefix}_o{self._count}"
        keys = list(schema["properties"])
        required = sum(1 << at for at, key in enumerate(keys) if key in schema.get("required", ()))
        for at, key in enumerate(keys):
            self._rules.append(f"{name}_k{at} ::= {_key(key)} {self.value(schema['properties'][key])} ws")
        for written in range(1 << len(keys)):
            comma = '"," ws ' if written else ""
            follows = [f"{comma}{name}_k{at} {name}_s{written | 1 << at}" for at in _missing(written, len(keys))]
            if written & required == required:
                follows.append('"}"')
            self._rules.append(f"{name}_s{written} ::= {' | '.join(follows)}")
        return f'"{{" ws {name}_s0'


def _missing(written: int, num_keys: int) -> Iterator[int]:
    return (at for at in range(num_keys) if not written >> at & 1)


def _either(options: Iterable[str]) -> str:
    return f"({' | '.join(options)})"


def _string(schema: Mapping[str, Any]) -> str:
    named = _REFERENCE.fullmatch(schema.get("pattern", ""))
    if named:
        kinds = _either(_text(kind) for kind in named["kinds"].split("|"))
        return f'("\\"" {kinds} "_" [1-9] [0-9]{{0,5}} "\\"")'
    return f'("\\"" character{{{schema.get("minLength", 0)},{schema.get("maxLength", "")}}} "\\"")'


class Shaped:
    """Which tokens of a turn sampled under `grammar` were shaped by it.

    model: the directory whose tokenizer sampled. num_ids: the model's rows of logits. never: ids that are never
    sampled (banned ones). Rows without a token are not counted either: no grammar can admit them, and a trained model
    gives them no mass. stop: the id that ends a turn.
    """

    def __init__(self, grammar: str, model: Path, *, num_ids: int, never: Sequence[int], stop: int) -> None:
        import numpy as np
        import xgrammar
        from transformers import AutoTokenizer

        self._xgrammar = xgrammar
        tokenizer = AutoTokenizer.from_pretrained(model)
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=num_ids, stop_token_ids=[stop])
        self._compiled = xgrammar.GrammarCompiler(info, max_threads=1).compile_structural_tag(grammar)
        self._stop = stop
        self._num_ids = num_ids
        counted = np.zeros(-(-num_ids // 32) * 32, bool)
        counted[: min(num_ids, len(tokenizer))] = True
        counted[[*never, *info.special_token_ids]] = False
        self._counted = np.packbits(counted, bitorder="little")

    def ranges(self, token_ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """[start, stop) of the shaped tokens, ascending, apart. All from the first token that the grammar refuses on:
        what came after is not the grammar's.
        """
        matcher = self._xgrammar.GrammarMatcher(self._compiled, override_stop_tokens=[self._stop])
        mask = self._xgrammar.allocate_token_bitmask(1, self._num_ids)
        found: list[list[int]] = []
        lost = False
        for at, token in enumerate(token_ids):
            lost = lost or matcher.is_terminated()
            shaped = lost or self._excludes(matcher, mask)
            lost = lost or not matcher.accept_token(token)
            if not (shaped or lost):
                continue
            if found and found[-1][1] == at:
                found[-1][1] = at + 1
            else:
                found.append([at, at + 1])
        return tuple((start, stop) for start, stop in found)

    def _excludes(self, matcher: Any, mask: Any) -> bool:
        """Whether the mask of the next token leaves out one that counts."""
        mask.fill_(-1)
        matcher.fill_next_token_bitmask(mask)
        allowed = mask.numpy().view("uint8").reshape(-1)
        return bool((self._counted & ~allowed).any())
