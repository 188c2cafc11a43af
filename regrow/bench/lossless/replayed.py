"""Drafts that cost what they cost, and are right as often as they were on real text.

A model with random weights agrees with no draft. So its head is given the weights of the embedding: the
residual stream holds the latest token's own embedding, and the likeliest next token is the latest token. The
right draft is then known without a dense run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.decoding.batch import Batch
from regrow.decoding.drafts.guesser import Draft, Guesser
from regrow.decoding.fused import FusedNetwork
from regrow.session import Session

SEED = 0
STREAM = 8.0  # factor by which the embedding outweighs what the blocks add


def repeats_tokens(model: PreTrainedModel) -> None:
    """Changes a model with random weights so that its likeliest next token is always the latest one."""
    inner: Any = model
    embedding: Tensor = inner.get_input_embeddings().weight.data
    generator = torch.Generator(embedding.device).manual_seed(SEED)
    embedding.normal_(generator=generator).mul_(STREAM)
    head: Tensor = inner.get_output_embeddings().weight.data
    if head.data_ptr() != embedding.data_ptr():
        head.copy_(embedding)


@final
@dataclass(frozen=True)
class Replayed:
    """Runs a draft, and replaces its tokens by right ones with a given chance each."""

    draft: Draft
    agreement: float

    @property
    def group(self) -> int | None:
        return self.draft.group

    def guesser(self, session: Session, network: FusedNetwork) -> Guesser:
        return _ReplayedGuesser(self.draft.guesser(session, network), self.agreement)


@final
class _ReplayedGuesser:
    def __init__(self, own: Guesser, agreement: float) -> None:
        self._own, self._agreement = own, agreement
        self._generator: torch.Generator | None = None

    def guess(self, batch: Batch, columns: Tensor, window: int) -> Tensor:
        tokens = self._own.guess(batch, columns, window)
        if self._generator is None:
            self._generator = torch.Generator(tokens.device).manual_seed(SEED)
        drawn = torch.rand(tokens.shape, device=tokens.device, generator=self._generator)
        latest = batch.ids.gather(1, columns[:, None])
        # Any other token is wrong.
        return torch.where(drawn < self._agreement, latest, (latest == 0).to(latest.dtype))
