"""The live engine under a grammar: what it says can be read, and tokens that are not marked as shaped carry the
log-probs of the plain distribution (transformers' own).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes.models import VOCABULARY, make_tiny_model
from fakes.reference import Reference

from actors.config import GenerationConfig
from actors.generation import VllmGenerator
from actors.grammar import call_grammar, turn_grammar
from actors.tools.catalogue import TOOLS
from common.chat import Chat
from common.media import FolderMediaStore, put_view
from common.types import Query, Sampling

pytestmark = pytest.mark.system

KINDS = {tool.name: tool.arguments for tool in TOOLS}
TOLERANCE = 1e-3


def rare_characters(folder: Path) -> str:
    """Printable characters that one token only holds, so that leaving words for a call shapes nothing before it."""
    tokens = list(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    return "".join(c for c in map(chr, range(33, 127)) if sum(c in token for token in tokens) == 1)


def often_triggered(characters: str) -> str:
    """The turn's grammar with triggers that a random model says soon, in place of <tool_call>."""
    tag = json.loads(turn_grammar(KINDS))
    tag["format"]["triggers"] = list(characters)
    tag["format"]["tags"] = [{**tag["format"]["tags"][0], "begin": character} for character in characters]
    return json.dumps(tag)


async def test_a_call_cannot_be_malformed_and_free_tokens_keep_their_log_probs(tmp_path: Path) -> None:
    import xgrammar

    folder = make_tiny_model(tmp_path / "model")
    chat, store = Chat.from_model(folder), FolderMediaStore(tmp_path / "media")
    reference = Reference(folder, chat, store)
    # Rows without a token are outside every grammar. A trained model gives them no mass, this random one does.
    banned = [*chat.banned, *range(chat.vocabulary_size, VOCABULARY)]
    view = put_view(store, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    opening = chat.question(Query(query_id="q", question="code on the red plate?", images=(view,)), [view])
    triggers = rare_characters(folder)
    grammar = often_triggered(triggers)
    generator = await VllmGenerator.start(folder, chat, store, GenerationConfig(), grammar=grammar)
    compiled = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([])).compile_grammar(call_grammar(KINDS))
    free_gaps: list[float] = []
    shaped_gaps: list[float] = []
    num_calls = 0
    try:
        for seed in range(6):
            sampling = Sampling(temperature=1.0, max_tokens=80, seed=seed)
            sample = await generator.generate(opening.token_ids, [view], sampling)
            table = reference.logprobs([*opening.token_ids, *sample.token_ids], [view], temperature=1.0, banned=banned)[
                len(opening.token_ids) :
            ]
            marked = np.zeros(len(sample.token_ids), bool)
            for start, stop in sample.shaped:
                marked[start:stop] = True
            gaps = np.array(sample.logprobs) - np.array(table)
            free_gaps += gaps[~marked].tolist()
            shaped_gaps += gaps[marked].tolist()
            said = chat.decode_all(sample.token_ids)
            begun = next((at for at, character in enumerate(said) if character in triggers), None)
            if begun is not None:
                num_calls += 1
                body = said[begun + 1 :].removesuffix("<|im_end|>").partition("</tool_call>")[0]
                assert xgrammar.GrammarMatcher(compiled).accept_string(body), said
    finally:
        await generator.close()
    assert num_calls >= 3 and len(free_gaps) >= 10
    assert max(map(abs, free_gaps)) <= TOLERANCE
    # Without the excluded tokens a token is never less likely, and forced ones are much more so.
    assert min(shaped_gaps) >= -TOLERANCE and max(shaped_gaps) > 1.0
