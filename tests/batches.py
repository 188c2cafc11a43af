"""Ragged batches for the tiny models, and what stock transformers generates from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import naive
from families import VOCABULARY

PAD = 0


def prompts(rows: int, seed: int = 0) -> list[list[int]]:
    """Return ragged prompts; the second has a single token."""
    rng = random.Random(seed)
    return [
        [rng.randrange(3, VOCABULARY) for _ in range(1 if row == 1 else rng.randint(2, 9))]
        for row in range(rows)
    ]


def arguments(batch: Sequence[Sequence[int]], **changes: Any) -> dict[str, Any]:
    """Return arguments for a greedy `generate` of 20 tokens on unpadded prompts.

    No token is an EOS unless `changes` says so.
    """
    ids, mask = naive.left_pad(batch, PAD)
    plain = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": VOCABULARY, "pad_token_id": PAD}
    return {"input_ids": ids, "attention_mask": mask, **plain, **changes}


def new_tokens(batch: Sequence[Sequence[int]], sequences: Tensor) -> list[list[int]]:
    """Return the generated part [B][N] of sequences [B, P + N]."""
    return sequences[:, max(map(len, batch)) :].tolist()


def ends(model: PreTrainedModel, batch: Sequence[Sequence[int]], **changes: Any) -> list[int]:
    """Return ids that end rows at different steps when used as EOS.

    Each is a token that a row generates, and the row ends where the token occurs first.
    """
    rows = new_tokens(batch, model.generate(**arguments(batch, **changes)))
    firsts = [[(i, token) for i, token in enumerate(row) if token not in row[:i]] for row in rows]
    return sorted({first[min(2 + 4 * row, len(first) - 1)][1] for row, first in enumerate(firsts[:3])})


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that makes each character a token."""
    characters = [*map(chr, range(33, 33 + VOCABULARY - 2)), " ", "\n"]
    tokenizer = Tokenizer(
        models.BPE(vocab={character: place for place, character in enumerate(characters)}, merges=[])
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="!", bos_token='"', eos_token="#")
