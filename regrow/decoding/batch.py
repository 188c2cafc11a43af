"""One batch of samples as plain buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Batch:
    """B rows: padding, prompt and answer of each. Every buffer has its full size from the start and keeps its address."""

    ids: Tensor  # [B, P + N]; columns that hold no token yet hold the pad
    prompt_length: int  # P, padding included
    mask: Tensor  # [B, P], zero where a column is padding
    positions: Tensor  # [B, P] place in a row's own text, -1 where a column is padding
    rows: Tensor  # [B] 0, 1, 2, ...
    ended: Tensor  # [B] bool: generated its EOS, or was stopped
    by_eos: Tensor  # [B] bool: generated its EOS
    lengths: Tensor  # [B] new tokens so far, the EOS included
    highest: int | None  # id that the model takes, if some column, masked or after a row's end, holds another

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
        """Prompts `ids` [B, P], padded on the left where `mask` [B, P] is zero (None: nowhere), with room for N new tokens. `positions`
        [B or 1, P] are counted from the mask if not given."""
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
        """The first columns [B, length] as a model takes them: what stands for a pad that it does not have is never seen by a row."""
        ids = self.ids[:, :length]
        return ids if self.highest is None else ids.clamp(0, self.highest)

    @property
    def capacity(self) -> int:
        """Columns in all, P + N."""
        return self.ids.shape[1]

    def finish_reasons(self) -> list[str]:
        """Why each row ended: "eos", "stop" (a stopping criterion), or "length"."""
        flags = zip(self.ended.tolist(), self.by_eos.tolist(), strict=True)
        return ["eos" if eos else "stop" if ended else "length" for ended, eos in flags]
