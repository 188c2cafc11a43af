"""Drafts from the text where it repeats itself, and by a model elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from regrow.decoding.batch import Batch
from regrow.decoding.drafts.four_bit import FourBit
from regrow.decoding.drafts.guesser import Guesser
from regrow.decoding.drafts.masked import Masked
from regrow.decoding.drafts.ngram import NGram
from regrow.decoding.fused import FusedNetwork
from regrow.errors import UsageError
from regrow.session import Session


@final
@dataclass(frozen=True)
class Cascade:
    """Guesses from the text if the latest tokens of every live row have occurred before, and else by steps.

    Guesses from the text cost nothing, and steps of a model are right more often. All rows take the same
    way, because a step costs as much for one row as for several. On a GPU the decision synchronises with the
    host.

    Args:
        first: The lookup. By default it asks for more equal tokens than `NGram()` alone.
        then: What guesses if a row has no match: `FourBit()` or `Masked()`.

    Raises:
        UsageError: If a part has another type.

    Example:
        ```python
        done = regrow.generate(model, tokenizer, prompts, lossless=regrow.Lossless(regrow.Cascade()))
        ```
    """

    first: NGram = field(default_factory=lambda: NGram(longest=8, shortest=6))
    then: FourBit | Masked = field(default_factory=FourBit)

    def __post_init__(self) -> None:
        if not isinstance(self.first, NGram) or not isinstance(self.then, FourBit | Masked):
            raise UsageError("a Cascade is made of an NGram, and of a FourBit or a Masked")

    @property
    def group(self) -> int | None:
        """The group of the 4-bit copy, if there is one."""
        return self.then.group

    def guesser(self, session: Session, network: FusedNetwork) -> Guesser:
        """Returns what guesses for one batch; see `Draft`."""
        return _CascadeGuesser(self.first, self.then.guesser(session, network))


@final
class _CascadeGuesser:
    def __init__(self, first: NGram, then: Guesser) -> None:
        self._first, self._then = first, then

    def guess(self, batch: Batch, columns: Tensor, window: int) -> Tensor:
        tokens, matched = self._first.lookup(batch, columns, window)
        if not bool(torch.where(batch.room > 0, matched, True).all()):
            return self._then.guess(batch, columns, window)
        return tokens
