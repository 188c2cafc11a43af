"""Runs our decode attention inside a model's own forward, through transformers' AttentionInterface.

It does not repeat keys and values for the query heads that share them, and reads each of them once.
"""

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
    """Decode attention for one batch.

    The columns of a row must have no gap between its first token and its last.
    """

    def __init__(self, model: PreTrainedModel, mask: Tensor | None, rows: int) -> None:
        """Takes the `mask` [B, P or more] of the prompt, zero in padded columns; None if no row is padded.

        Padding must be on the left.
        """
        self._config, device = model.config, model.device
        self._start = (
            torch.zeros(rows, dtype=torch.int64, device=device) if mask is None else (mask == 0).sum(dim=1)
        )
        self._length = torch.zeros_like(self._start)
        AttentionInterface.register(NAME, attend)

    @contextmanager
    def step(self, length: int, width: int) -> Iterator[dict[str, Tensor]]:
        """Yields the extra arguments for a forward of `width` tokens per row that ends at column `length`.

        Inside the context, the model's attention implementation is ours.
        """
        self._length.fill_(length - width)
        before = self._config._attn_implementation
        # There is no mask function of this name, so transformers builds no mask.
        self._config._attn_implementation = NAME
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
    """Returns y [B, w, H, d] for query [B, H, w, d], key and value [B, H_kv, S, d].

    Raises TypeError for other kinds of attention: with a mask, a window, a soft cap, sinks or a position
    bias, or with values of another width than keys.
    """
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
    queries = query.transpose(1, 2)
    out = torch.empty_like(queries, memory_format=torch.contiguous_format)
    workspace = attention_workspace(queries, key.shape[1], key.shape[2])
    scale = head_width**-0.5 if scaling is None else scaling
    decode_attention(queries, key, value, kv_start, kv_length, scale, out, workspace)
    return out, None
