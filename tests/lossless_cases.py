"""Ragged batches, guesses that are right as often as asked, and a streamer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from regrow.decoding.batch import Batch
from regrow.decoding.lossless import LosslessLoop

NEW, VOCABULARY = 24, 90


@dataclass(frozen=True)
class Partly:
    """Guesses the dense tokens, each of them with a given chance, and other tokens otherwise."""

    dense: Tensor  # [B, columns]
    chance: float

    def guess(self, batch: Batch, columns: Tensor, window: int) -> Tensor:
        place = (columns[:, None] + 1 + torch.arange(window)).clamp(max=self.dense.shape[1] - 1)
        drawn = torch.Generator().manual_seed(int(columns.sum()))
        right = torch.rand(place.shape, generator=drawn) < self.chance
        other = torch.randint(3, VOCABULARY - 1, place.shape, generator=drawn)
        wanted = self.dense.gather(1, place)
        return torch.where(right, wanted, other + (other == wanted))


def prompts(rows: int, seed: int, width: int = 9) -> dict[str, Tensor]:
    """Return a ragged batch, padded on the left."""
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, width), generator=drawn)
    padded = torch.randint(0, width, (rows,), generator=drawn)
    padded[0] = 0
    return {"input_ids": ids, "attention_mask": (torch.arange(width) >= padded[:, None]).long()}


def settings_of(batch: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    return {
        **batch,
        "max_new_tokens": NEW,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        **more,
    }


def drafting(guesser: object) -> Any:
    """Replace what is drafted by the guesses of `guesser`, which is no public draft."""
    init = LosslessLoop.__init__

    def replaced(self: LosslessLoop, *args: Any, **settings: Any) -> None:
        init(self, *args, **{**settings, "guesser": guesser})

    return patch.object(LosslessLoop, "__init__", replaced)


class Stream:
    def __init__(self) -> None:
        self.tokens: list[list[int]] = []

    def put(self, value: Tensor) -> None:
        self.tokens.append(value.flatten().tolist())

    def end(self) -> None:
        self.tokens.append([])
