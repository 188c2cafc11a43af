"""One batch of samples as plain buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Batch:
    """B rows with their padding, prompts and answers.

    Every buffer has its full size from the start and keeps its address.
    """

    ids: Tensor  # [B, P + N]; columns without a token yet hold the pad token
    prompt_length: int  # P, padding included
    mask: Tensor  # [B, P], zero in padded columns
    positions: Tensor  # [B, P] position in the row's own text, -1 in padded columns
    rows: Tensor  # [B] 0, 1, 2, ...
    ended: Tensor  # [B] bool: generated its EOS, or was stopped by a criterion
    by_eos: Tensor  # [B] bool: generated its EOS
    lengths: Tensor  # [B] new tokens so far, the EOS included
    # The largest token id of the model, if an id (masked, or after a row's end) lies outside the vocabulary.
    highest: int | None

    @classmethod
    def of(
        cls,
        ids: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        room: int,
        pad: Tensor,
        vocabulary: int,
    ) -> Self:
        """Makes a batch of prompts `ids` [B, P], with room for N new tokens.

        Prompts are padded on the left where `mask` [B, P] is zero (None: nowhere). `positions` [B or 1, P]
        are counted from the mask if they are not given.
        """
        rows, width = ids.shape
        seen = torch.ones_like(ids) if mask is None else mask[:, -width:]
        given = seen.cumsum(1) - 1 if positions is None else positions.expand(rows, -1)[:, -width:]
        ended = torch.zeros(rows, dtype=torch.bool, device=ids.device)
        return cls(
            ids=torch.cat([ids, pad.expand(rows, room)], dim=1),
            prompt_length=width,
            mask=seen,
            positions=torch.where(seen.bool(), given, -1),
            rows=torch.arange(rows, device=ids.device),
            ended=ended,
            by_eos=ended.clone(),
            lengths=torch.zeros(rows, dtype=torch.int64, device=ids.device),
            highest=vocabulary - 1
            if bool(((ids < 0) | (ids >= vocabulary)).any()) or not 0 <= int(pad) < vocabulary
            else None,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def fed(self, length: int) -> Tensor:
        """Returns the first columns [B, length] of the ids, as the model is fed them.

        Ids outside the vocabulary are clamped. No live row sees them: they are masked, or come after a
        row's end.
        """
        return self.known(self.ids[:, :length])

    def known(self, ids: Tensor) -> Tensor:
        """Returns the ids, clamped to the vocabulary if some of the batch lie outside of it."""
        return ids if self.highest is None else ids.clamp(0, self.highest)

    @property
    def padding(self) -> Tensor:
        """Padded columns [B] before the first token of each row."""
        return (self.mask == 0).sum(dim=1)

    def position_of(self, columns: Tensor) -> Tensor:
        """Returns the positions [B] of these columns [B] in the rows' own texts."""
        return columns - self.padding

    def within(self, position: Tensor) -> Tensor:
        """Returns `position`, with -1 for positions that no text of this batch reaches."""
        return torch.where(position < self.capacity, position, -1)

    def append(self, tokens: Tensor, count: Tensor) -> None:
        """Appends the first `count` [B] of `tokens` [B, n] to the rows."""
        last = self.prompt_length + self.lengths[:, None] - 1
        number = torch.arange(tokens.shape[1], device=tokens.device)
        fits = number < count[:, None]
        # What is not appended is written where the last token is, and is that token.
        columns = torch.where(fits, last + 1 + number, last)
        self.ids.scatter_(1, columns, torch.where(fits, tokens, self.ids.gather(1, last)))
        self.lengths.add_(count)

    def reach(self, columns: Tensor, width: int) -> int:
        """Returns how many columns passes have to see that feed `width` tokens from `columns` [B] on.

        On a GPU it is the capacity, because reading the columns would synchronise.
        """
        if columns.device.type != "cpu":
            return self.capacity
        return min(self.capacity, int(columns.max()) + width)

    @property
    def room(self) -> Tensor:
        """The tokens [B] that each row may still get; 0 for a row that has ended."""
        return torch.where(self.ended, 0, self.capacity - self.prompt_length - self.lengths)

    @property
    def capacity(self) -> int:
        """Number of columns, P + N."""
        return self.ids.shape[1]

    def finish_reasons(self) -> list[str]:
        """Returns why each row ended: "eos", "stop" (a stopping criterion), or "length"."""
        flags = zip(self.ended.tolist(), self.by_eos.tolist(), strict=True)
        return ["eos" if eos else "stop" if ended else "length" for ended, eos in flags]
