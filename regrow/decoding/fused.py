"""A decoder run part by part over a cache of fixed size: fewer and larger operations than the model's own forward."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from regrow.adapter.llama_like import Block, DecoderWeights, Norm
from regrow.core import Pass
from regrow.decoding.graphs import Graphs, Recorder
from regrow.decoding.network import Network
from regrow.kernels import unit

if TYPE_CHECKING:
    from regrow.decoding.stepper import Stepper

COLUMNS: Final = 256  # a cache has a multiple of so many, so that batches of about the same length share one
WIDEST: Final = 17  # tokens a row that the kernels take
CHUNK_TOKENS: Final = 32768  # of a prompt that are fed at once, over all rows: what they compute on the way would be gigabytes
SHORTEST_CHUNK, LONGEST_CHUNK = 64, 2048  # tokens a row
FOLDED: Final = 32  # up to so many queries a row, the query heads of a key-value head are laid along the queries: no key is repeated


@final
class FusedNetwork(Network):
    def __init__(self, decoder: DecoderWeights, *, kernels: bool, recorder: Callable[[], Recorder] | None = None) -> None:
        """`kernels`: decode steps run through them; they are recorded if a `recorder` can be made."""
        self._decoder, self._kernels, self._recorder = decoder, kernels, recorder
        self.dtype = decoder.embedding.dtype
        self._size = (0, 0)  # rows, columns
        self._graphs: Graphs | None = None
        self._steppers: dict[tuple[int, bool], Stepper] = {}  # by tokens a row, and whether every one gets logits

    def start(self, batch: int, capacity: int) -> None:
        """Room for `batch` rows of `capacity` tokens each, empty. What is there stays where it is, as long as it is large enough."""
        rows, columns = self._size
        if rows != batch or columns < capacity:
            self._allocate(batch, -(-capacity // COLUMNS) * COLUMNS)
        # What a shorter row has not written is multiplied by zero, which is no zero if it happens to be infinite.
        self._keys_values[:, :, :capacity].zero_()
        self.chunk = max(SHORTEST_CHUNK, min(LONGEST_CHUNK, CHUNK_TOKENS // batch))

    def refresh(self) -> None:
        """Takes over the values that the model's weights have now; addresses stay, and so do recorded steps."""
        self._decoder.refresh()

    def _allocate(self, batch: int, columns: int) -> None:
        of = self._decoder
        # Recorded steps know the addresses of the cache: they go before it does. Without enough memory for another, there is none.
        self._size, self._graphs, self._steppers = (0, 0), None, {}
        self._keys_values = of.embedding.new_empty(0)
        # A column more: padding is written there.
        self._keys_values = of.embedding.new_empty(len(of.blocks), batch, columns + 1, 2, of.kv_heads, of.head_width)
        self._rows = torch.arange(batch, device=of.embedding.device)[:, None] * (columns + 1)
        self._columns = torch.arange(columns, device=of.embedding.device)
        cos, sin = of.rotary(of.embedding, self._columns[None])
        self._cos, self._sin = cos[0], sin[0]
        self._graphs = None if self._recorder is None else Graphs(self._recorder())
        self._size = (batch, columns)

    def forward(self, planned: Pass, ids: Tensor, *, length: int | None = None, key: Hashable | None = None, every: bool = False) -> Tensor:
        position, width, longest = planned.position, planned.width, length or ids.shape[1]
        if not self._kernels or planned.prompt or width > WIDEST:
            return self._plain(ids[:, -width:], position, longest, every)
        stepper = self._stepper(width, every)
        stepper.ids.copy_(ids[:, -width:])
        stepper.position.copy_(position)
        return stepper() if self._graphs is None or key is None else self._graphs.run((width, every, key), stepper)

    def _stepper(self, width: int, every: bool) -> Stepper:
        if (width, every) not in self._steppers:
            from regrow.decoding.stepper import Stepper

            with torch.inference_mode(mode=False), torch.no_grad():  # its buffers outlive the caller's inference mode
                halves = self._decoder.rotary(self._cos.new_empty(0, dtype=torch.float32), self._columns[None])
                cos, sin = (table[0, :, : self._decoder.head_width // 2].contiguous() for table in halves)
                self._steppers[width, every] = Stepper(self._decoder, self._keys_values, cos, sin, self._size[0], width, every=every)
        return self._steppers[width, every]

    def _plain(self, ids: Tensor, position: Tensor, length: int, every: bool) -> Tensor:
        of = self._decoder
        place = (self._rows + torch.where(position < 0, self._size[1], position)).flatten()
        held = position.clamp(min=0)
        cos, sin = self._cos[held][:, :, None], self._sin[held][:, :, None]  # [B, w, 1, d]
        mask = (self._columns[:length] <= held[:, :, None])[:, None]  # [B, 1, w, length]
        if ids.shape[1] <= FOLDED:
            mask = mask.repeat_interleave(of.heads // of.kv_heads, dim=2)  # a line for each query head of a key-value head
        x = of.embedding[ids]
        for block, cache in zip(of.blocks, self._keys_values, strict=True):
            x = x + self._attention(block, cache, _rms_norm(x, block.attention_norm), place, cos, sin, mask)
            x = x + block.ffn(_rms_norm(x, block.ffn_norm))
        return linear(_rms_norm(x if every else x[:, -1], of.norm), of.head, of.head_bias)

    def _attention(self, block: Block, cache: Tensor, x: Tensor, place: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """[B, w, D] of the normed x [B, w, D]; `cache` [B, capacity + 1, 2, H_kv, d], `place` [B w] of the new tokens in it,
        `mask` of the queries as they are laid out."""
        of = self._decoder
        (batch, width), length = x.shape[:2], mask.shape[-1]
        split = (of.heads, of.kv_heads, of.kv_heads)
        query, key, value = block.qkv(x).view(batch, width, -1, of.head_width).split_with_sizes(split, dim=2)
        query, key = (
            _rotated(part if norm is None else _rms_norm(part, norm), cos, sin)
            for part, norm in ((query, block.query_norm), (key, block.key_norm))
        )
        cache.flatten(0, 1).index_copy_(0, place, torch.stack((key, value), dim=2).flatten(0, 1))
        keys, values = cache[:, :length].permute(2, 0, 3, 1, 4)  # [B, H_kv, length, d] each
        groups = of.heads // of.kv_heads
        if width > FOLDED:  # fused attention with a mask takes no shared heads: they are repeated
            keys, values = (shared.repeat_interleave(groups, dim=1) for shared in (keys, values))
            y = scaled_dot_product_attention(query.transpose(1, 2), keys, values, mask)
            return block.output(y.transpose(1, 2).flatten(2))
        query = query.view(batch, width, of.kv_heads, groups, -1).transpose(1, 2).flatten(2, 3)  # [B, H_kv, w groups, d]
        y = scaled_dot_product_attention(query, keys, values, mask)
        return block.output(y.reshape(batch, of.kv_heads, width, -1).transpose(1, 2).flatten(2))


def _rms_norm(x: Tensor, norm: Norm) -> Tensor:
    return norm.weight * unit(x, norm.eps)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
