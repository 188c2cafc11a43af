"""A causal language model as the decode loop sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.decoding.attention import DecodeAttention


class Network(ABC):
    """Keeps the keys and values of one batch. Columns of a batch are its tokens with the padding on the left."""

    dtype: torch.dtype  # of the weights
    chunk: int | None = None  # tokens of a prompt it takes at once, if not told otherwise

    @abstractmethod
    def forward(self, ids: Tensor, position: Tensor, length: int, *, decode: bool = False, key: Hashable | None = None) -> Tensor:
        """Logits [B, V] of the last of w tokens a row, ids [B, w], which end at column `length`. `position` [B, w] counts a row's own
        tokens from 0; -1 is padding, of which decode steps have none. Those of the same sizes and `key` may be recorded and replayed;
        without a key they are not."""


@final
class StockNetwork(Network):
    """The model's own forward, with the cache that transformers prepared."""

    def __init__(
        self, model: PreTrainedModel, mask: Tensor | None, inputs: dict[str, Any], attention: DecodeAttention | None = None
    ) -> None:
        """`mask` [B, capacity], zero where a column is padding; None without any. Steps go through `attention` if given."""
        self._model, self._mask, self._inputs, self._attention = model, mask, inputs, attention
        self.dtype = model.dtype

    def forward(
        self,
        ids: Tensor,
        position: Tensor,
        length: int,
        *,
        decode: bool = False,
        key: Hashable | None = None,  # noqa: ARG002
    ) -> Tensor:
        mask = None if self._mask is None else self._mask[:, :length]
        attention = self._attention if decode else None
        ours: AbstractContextManager[dict[str, Tensor]] = nullcontext({}) if attention is None else attention.step(length, ids.shape[1])
        with ours as more:
            output = self._model(
                input_ids=ids, position_ids=position.clamp(min=0), attention_mask=mask, return_dict=True, **self._inputs, **more
            )
        logits: Tensor = output.logits[:, -1]
        return logits
