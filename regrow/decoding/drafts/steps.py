"""Drafts by decode steps that nobody commits; the check rewrites their keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from regrow.core import Role
from regrow.decoding.batch import Batch
from regrow.session import Session


@final
class StepGuesser:
    """Runs one decode step for every token that it guesses."""

    def __init__(self, session: Session, forward: Callable[..., Tensor]) -> None:
        """`forward(planned, ids, length=, key=)` returns logits [B, V], as `Network.forward` does."""
        self._session, self._forward = session, forward

    def guess(self, batch: Batch, columns: Tensor, window: int) -> Tensor:
        """Returns the likeliest tokens [B, window]; see `Guesser`."""
        token = batch.known(batch.ids.gather(1, columns[:, None]))
        slot = torch.where(batch.room > 0, batch.rows, -1)
        position = batch.position_of(columns)[:, None]
        found, length = [], batch.reach(columns, window)
        for _ in range(window):
            planned = self._session.plan(slot, batch.within(position), role=Role.DRAFT)
            with self._session.running(planned) as key:
                logits = self._forward(planned, token, length=length, key=key)
            token = logits.argmax(dim=-1, keepdim=True)
            found.append(token)
            position = position + 1
        return torch.cat(found, dim=1)
