"""Prompts and answers as text, for callers who pass a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from regrow.errors import UsageError
from regrow.models import Loaded, encode

_FORM = "regrow.generate(model, tokenizer, prompts)"


@final
class Texts:
    """Tokenises prompts for one model and decodes its answers."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
        self._loaded = Loaded(model, tokenizer, name, Path(name))

    def encode(self, prompts: object, chat: bool | None) -> tuple[Tensor, Tensor]:
        """Returns input_ids and attention_mask [B, P] of one prompt or several, padded on the left.

        Raises UsageError if `prompts` is not text, or if a prompt is empty or leaves no room in the context.
        """
        texts = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"with a tokenizer, the prompts must be a list of texts: {_FORM}")
        return encode(self._loaded, texts, chat=chat)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each row, without special tokens."""
        return [self._loaded.decode(row) for row in rows]


def without_texts(input_ids: object, chat: bool | None) -> None:
    """Raises UsageError if texts, or `chat`, were passed without a tokenizer."""
    texts = isinstance(input_ids, str) or (
        isinstance(input_ids, (list, tuple)) and any(isinstance(prompt, str) for prompt in input_ids)
    )
    if texts:
        raise UsageError(f"prompts as text need the tokenizer before them: {_FORM}")
    if chat is not None:
        raise UsageError(f"chat is for prompts as text, which need the tokenizer before them: {_FORM}")
