"""What a draft is, as a setting and as something that guesses tokens."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from regrow.decoding.batch import Batch
from regrow.decoding.fused import FusedNetwork
from regrow.session import Session


class Guesser(Protocol):
    """Guesses the next tokens of every row of one batch."""

    def guess(self, batch: Batch, columns: Tensor, window: int) -> Tensor:
        """Returns tokens [B, window] that may follow the last token of each row.

        `columns` [B] int64 are the columns of these last tokens in the batch. What is guessed for a row that
        has ended does not matter.
        """
        ...


class Draft(Protocol):
    """A setting that says how tokens are guessed: a frozen value."""

    @property
    def group(self) -> int | None:
        """Weights that share a scale in the 4-bit copy that the draft runs; None if it runs none."""
        ...

    def __hash__(self) -> int: ...

    def guesser(self, session: Session, network: FusedNetwork) -> Guesser:
        """Returns what guesses tokens for one batch. Raises UsageError if the draft does not fit."""
        ...
