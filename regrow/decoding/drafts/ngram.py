"""Drafts from the row's own text: what followed the last time that its latest tokens occurred.

The idea is prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from regrow.decoding.batch import Batch
from regrow.decoding.drafts.guesser import Guesser
from regrow.decoding.fused import FusedNetwork
from regrow.errors import UsageError
from regrow.session import Session


@final
@dataclass(frozen=True)
class NGram:
    """Looks up the latest tokens of a row in its own prompt and answer, and guesses what followed them there.

    The longest match counts, and among equally long ones the latest. A text that repeats itself is continued
    periodically. The lookup runs on the device and does not synchronise.

    Args:
        longest: Tokens that are looked up at most.
        shortest: Tokens that have to match at least.

    Raises:
        UsageError: If the lengths are not whole numbers with 1 <= shortest <= longest.

    Example:
        ```python
        done = regrow.generate(model, tokenizer, prompts, lossless=regrow.Lossless(regrow.NGram()))
        ```
    """

    longest: int = 3
    shortest: int = 2

    def __post_init__(self) -> None:
        lengths = self.shortest, self.longest
        if any(type(length) is not int for length in lengths) or not 1 <= self.shortest <= self.longest:
            raise UsageError(
                f"shortest and longest are whole numbers with 1 <= shortest <= longest, not {lengths}"
            )

    @property
    def group(self) -> None:
        """None: there is no 4-bit copy."""

    def guesser(self, session: Session, network: FusedNetwork) -> Guesser:  # noqa: ARG002 (runs no model)
        """Returns what guesses for one batch; see `Draft`."""
        return self

    def guess(self, batch: Batch, columns: Tensor, window: int) -> Tensor:
        """Returns tokens [B, window] that may follow column `columns` [B] of each row; see `Guesser`.

        A row without a match gets its own last token.
        """
        return self.lookup(batch, columns, window)[0]

    def lookup(self, batch: Batch, columns: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Returns what `guess` does, and for every row whether there was a match, [B] bool."""
        ids, last = batch.ids, columns[:, None]
        column = torch.arange(ids.shape[1], device=ids.device)
        first = batch.padding[:, None]  # column of the first token
        matched = torch.zeros_like(ids)
        going = column < last  # a match ends before the last token
        for back in range(self.longest):
            same = ids.roll(back, dims=1) == ids.gather(1, (last - back).clamp(min=0))
            going = going & same & (column - back >= first)
            matched += going
        rank = torch.where(matched >= self.shortest, matched * ids.shape[1] + column, -1)
        best, end = rank.max(dim=1, keepdim=True)
        ahead = torch.arange(window, device=ids.device) % (last - end).clamp(min=1)
        source = torch.where(best >= 0, end + 1 + ahead, last)
        return ids.gather(1, source), best[:, 0] >= 0
