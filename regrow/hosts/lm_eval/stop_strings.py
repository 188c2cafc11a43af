"""Stop strings of a task: each row ends by itself, at the first one in its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria


@final
class StopStrings(StoppingCriteria):
    """A stopping criterion that says for each row whether its new tokens contain one of the strings.

    The prompt does not count. Special tokens do, because a task may name one of them.
    """

    def __init__(self, strings: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt: int) -> None:
        """`prompt` is the number of prompt positions P, padding included."""
        self._strings, self._tokenizer, self._prompt = strings, tokenizer, prompt
        # A token has at least one byte, so a string that the latest token completes lies in this many tokens.
        # One more is decoded in front of them, because some tokenizers drop a space at the beginning.
        self._window = 1 + max(len(string.encode()) for string in strings)
        self._stopped: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002
        """Returns a boolean tensor [B] for the ids [B, P + N]."""
        tail = input_ids[:, max(self._prompt, input_ids.shape[1] - self._window) :].tolist()
        running = [row for row in range(len(tail)) if row not in self._stopped]
        texts = self._tokenizer.batch_decode([tail[row] for row in running])
        self._stopped |= {
            row
            for row, text in zip(running, texts, strict=True)
            if any(string in text for string in self._strings)
        }
        return torch.tensor([row in self._stopped for row in range(len(tail))], device=input_ids.device)
