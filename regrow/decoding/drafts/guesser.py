"""What a draft is, as a setting and as something that guesses tokens."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from regrow.decoding.batch import Batch


class Guesser(Protocol):
    """Guesses the next tokens of every row of one batch."""

    def guess(self, batch: Batch, columns: Tensor, window: int) -> Tensor:
        """Returns tokens [B, window] that may follow the last token of each row.

        `columns` [B] int64 are the columns of these last tokens in the batch. What is guessed for a row that
        has ended does not matter.
        """
        ...
