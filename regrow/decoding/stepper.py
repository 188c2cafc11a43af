"""A decode step through the kernels: three of them run between the linear layers, in place on the cache."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.adapter.llama_like import DecoderWeights
from regrow.kernels import add_rms_norm, attention_workspace, decode_attention, rope_cache


@final
class Stepper:
    """One decode step of `rows` rows with `width` tokens each. Its buffers never change their addresses."""

    def __init__(
        self,
        decoder: DecoderWeights,
        cache: Tensor,
        cos: Tensor,
        sin: Tensor,
        rows: int,
        width: int,
        *,
        every: bool = False,
    ) -> None:
        """Takes `cache` [L, B, S, 2, H_kv, d], and `cos` and `sin` [positions, d / 2] float32.

        With `every`, a call returns logits after every token of a row, not only after the last.
        """
        like = decoder.embedding
        self._decoder, self._cos, self._sin, self._every = decoder, cos, sin, every
        # Keys and values of each layer, [B, H_kv, S, d].
        self._caches = [layer.permute(2, 0, 3, 1, 4).unbind() for layer in cache]
        capacity, tokens, channels = cache.shape[2], rows * width, like.shape[1]
        heads = (rows, width, decoder.heads, decoder.head_width)
        self.ids = torch.zeros(rows, width, dtype=torch.int64, device=like.device)
        self.position = torch.zeros_like(self.ids)
        self._residual, self._normed = like.new_empty(tokens, channels), like.new_empty(tokens, channels)
        self._query, self._attended = like.new_empty(heads), like.new_empty(heads)
        self._workspace = attention_workspace(self._query, decoder.kv_heads, capacity)
        self._start = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self._length = torch.zeros_like(self._start)

    def __call__(self) -> Tensor:
        """Returns logits [B, V] after the last token of each row, or [B, w, V] after every token.

        The tokens are `ids` at `position` [B, w], which are consecutive in each row.
        """
        decoder, tokens = self._decoder, len(self._residual)
        self._length.copy_(self.position[:, 0])
        torch.index_select(decoder.embedding, 0, self.ids.view(-1), out=self._residual)
        x: Tensor | None = None
        for block, (keys, values) in zip(decoder.blocks, self._caches, strict=True):
            add_rms_norm(
                x, self._residual, block.attention_norm.weight, block.attention_norm.eps, self._normed
            )
            qkv = block.qkv(self._normed).view(*self.ids.shape, -1)
            norms = block.query_norm, block.key_norm
            q_weight, k_weight = (None if norm is None else norm.weight for norm in norms)
            eps = 0.0 if norms[0] is None else norms[0].eps
            rope_cache(
                qkv,
                q_weight,
                k_weight,
                eps,
                self._cos,
                self._sin,
                self.position,
                self.position,
                keys,
                values,
                self._query,
            )
            scale = decoder.head_width**-0.5
            decode_attention(
                self._query, keys, values, self._start, self._length, scale, self._attended, self._workspace
            )
            x = block.output(self._attended.view(tokens, -1))
            add_rms_norm(x, self._residual, block.ffn_norm.weight, block.ffn_norm.eps, self._normed)
            x = block.ffn(self._normed)
        add_rms_norm(x, self._residual, decoder.norm.weight, decoder.norm.eps, self._normed)
        hidden = self._normed.view(*self.ids.shape, -1)
        return decoder.head(hidden if self._every else hidden[:, -1])
