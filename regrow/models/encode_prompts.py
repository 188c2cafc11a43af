"""Encodes prompts as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from regrow.errors import RegrowError, UsageError
from regrow.models.blame import blaming
from regrow.models.loaded import Loaded


def encode(
    loaded: Loaded, prompts: Sequence[str], *, chat: bool | None = None, system: str = ""
) -> tuple[Tensor, Tensor]:
    """Returns input_ids and attention_mask [B, P] of the prompts, left-padded, on the model's device.

    `chat`: put each prompt into the tokenizer's chat template as a user message; None does so if there is a
    template. `system`: the system message before each prompt; empty text means none.
    Raises UsageError if there are no prompts, if a required template is missing, or if a prompt is
    not text, is empty or leaves no room in the context. Raises RegrowError if a prompt holds a token that the
    model lacks, or if the tokenizer or its chat template fails.
    """
    if not prompts:
        raise UsageError("there are no prompts; give at least one")
    template = bool(loaded.tokenizer.chat_template)
    if chat and not template:
        raise UsageError(f"the tokenizer of {loaded.name} has no chat template; pass --no-chat (chat=False)")
    chat = template if chat is None else chat
    if system and not chat:
        raise UsageError(
            "a system message needs a chat template, and this run uses none; put it into the prompts instead"
        )
    rows = [_row(loaded, f"prompt {i}", prompt, chat, system) for i, prompt in enumerate(prompts, 1)]
    pad, width = _pad_id(loaded), max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=loaded.model.device)
    mask = torch.tensor(
        [[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.model.device
    )
    return ids, mask


def _row(loaded: Loaded, which: str, prompt: str, chat: bool, system: str) -> list[int]:
    _check_text(which, prompt)
    what, remedy = f"the tokenizer of {loaded.name} fails on {which}", "download or copy its files again"
    if chat:
        what, remedy = (
            f"the chat template of {loaded.name} fails on {which}",
            "correct the template, or use --no-chat (chat=False)",
        )
    with blaming(what, remedy):
        row = _tokens(loaded.tokenizer, prompt, chat, system)
    if not row:
        raise UsageError(
            f"{which} encodes to no tokens, so there is nothing to continue; "
            f"write something else{', or use --no-chat (chat=False)' if chat else ''}"
        )
    _check_ids(loaded, which, row)
    if loaded.context is not None and len(row) >= loaded.context:
        raise UsageError(
            f"{which} has {len(row)} tokens, which leaves no room in the context of {loaded.context}; "
            "shorten it"
        )
    return row


def _check_text(which: str, prompt: str) -> None:
    if not isinstance(prompt, str):
        raise UsageError(f"{which} is a {type(prompt).__name__}; prompts must be texts")
    if not prompt.strip():
        raise UsageError(f"{which} is empty; give it at least one token")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        half = ascii(prompt[error.start])
        raise UsageError(
            f"{which} is not valid Unicode (half a character, {half}, at place {error.start + 1}); correct it"
        ) from error


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool, system: str) -> list[int]:
    if not chat:
        ids: list[int] = tokenizer(prompt)["input_ids"]
        return ids
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    # The template writes the BOS itself, so its text must be tokenised without adding another one.
    encoded: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True
    )
    return list(encoded["input_ids"])


def _check_ids(loaded: Loaded, which: str, row: Iterable[int]) -> None:
    beyond = next((token for token in row if token >= loaded.embeddings), None)
    if beyond is not None:
        text = loaded.tokenizer.convert_ids_to_tokens(beyond)
        raise RegrowError(
            f"{which} holds the token {text!r} ({beyond}), "
            f"and {loaded.name} has embeddings for {loaded.embeddings} tokens only; "
            "use the tokenizer that belongs to the model"
        )


def _pad_id(loaded: Loaded) -> int:
    """Returns an id for padding. Any id that the model knows will do, because padding is masked."""
    tokenizer = loaded.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad) if pad is not None and 0 <= pad < loaded.embeddings else 0
