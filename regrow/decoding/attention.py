"""Decode attention of ours inside a model's own forward, through transformers' AttentionInterface: no key or value is repeated for the
query heads that share it, and none is read twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from regrow.kernels import attention_workspace, decode_attention

NAME: Final = "regrow_decode"


@final
class DecodeAttention:
    """For steps of some tokens a row over a cache without gaps: columns from a row's first token to its last."""

    def __init__(self, model: PreTrainedModel, mask: Tensor | None, rows: int) -> None:
        """`mask` [B, P or more] of the prompt, zero where a column is padding, which is on the left; None without any."""
        self._config, device = model.config, model.device
        self._start = (
            torch.zeros(rows, dtype=torch.int64, device=device) if mask is None else (mask == 0).sum(dim=1)
        )
        self._length = torch.zeros_like(self._start)
        AttentionInterface.register(NAME, attend)

    @contextmanager
    def step(self, length: int, width: int) -> Iterator[dict[str, Tensor]]:
        """What to give to the forward of `width` tokens a row that end at column `length`."""
        self._length.fill_(length - width)
        before = self._config._attn_implementation
        self._config._attn_implementation = (
            NAME  # without a mask function of this name transformers builds no mask
        )
        try:
            yield {"kv_start": self._start, "kv_length": self._length}
        finally:
            self._config._attn_implementation = before


def attend(
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    kv_start: Tensor,
    kv_length: Tensor,
    **others: Any,
) -> tuple[Tensor, None]:
    """y [B, w, H, d] of query [B, H, w, d], key and value [B, H_kv, S, d]. Raises TypeError for attention of another kind."""
    odd = [
        name
        for name in ("sliding_window", "softcap", "s_aux", "position_bias")
        if others.get(name) is not None
    ]
    if odd or attention_mask is not None:
        raise TypeError(f"attention with {', '.join(odd) or 'a mask'}")
    head_width = query.shape[-1]
    if value.shape[-1] != head_width:
        raise TypeError("values of another width than keys")
    asked = query.transpose(1, 2)
    out = torch.empty_like(asked, memory_format=torch.contiguous_format)
    workspace = attention_workspace(asked, key.shape[1], key.shape[2])
    scale = head_width**-0.5 if scaling is None else scaling
    decode_attention(asked, key, value, kv_start, kv_length, scale, out, workspace)
    return out, None
