"""Prompts as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from regrow.errors import UsageError
from regrow.models.loaded import Loaded


def encode(loaded: Loaded, prompts: Sequence[str], *, chat: bool | None = None) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask [B, P] of the prompts, padded on the left, on the model's device.

    `chat`: each prompt is a user's message in the tokenizer's chat template; None: if it has one. Raises UsageError for no prompts, an
    empty one, or one that leaves no room in the context.
    """
    tokenizer = loaded.tokenizer
    if not prompts:
        raise UsageError("there are no prompts; give at least one")
    if chat and not tokenizer.chat_template:
        raise UsageError(f"the tokenizer of {loaded.name} has no chat template; use --no-chat")
    rows = [_tokens(tokenizer, prompt, bool(tokenizer.chat_template) if chat is None else chat) for prompt in prompts]
    for i, row in enumerate(rows):
        if not row:
            raise UsageError(f"prompt {i + 1} is empty; give it at least one token")
        if loaded.context is not None and len(row) >= loaded.context:
            raise UsageError(f"prompt {i + 1} has {len(row)} tokens, which leaves no room in the context of {loaded.context}; shorten it")
    pad, width = _pad_id(tokenizer), max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=loaded.model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.model.device)
    return ids, mask


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool) -> list[int]:
    if not prompt.strip():
        return []
    if not chat:
        ids: list[int] = tokenizer(prompt)["input_ids"]
        return ids
    message = [{"role": "user", "content": prompt}]
    # The template writes the BOS itself: tokenised as it is, so that there is one.
    encoded: Any = tokenizer.apply_chat_template(message, tokenize=True, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return 0 if pad is None else int(pad)
