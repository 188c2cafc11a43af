"""A decoder run part by part over a cache of fixed size: fewer and larger operations than the model's own forward."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from regrow.adapter.llama_like import Block, DecoderWeights, Norm
from regrow.core import Pass
from regrow.decoding.graphs import Graphs, Recorder
from regrow.decoding.network import Network
from regrow.kernels import steps_compiled, unit

if TYPE_CHECKING:
    from regrow.decoding.stepper import Stepper

COLUMNS: Final = 256  # a cache has a multiple of so many, so that batches of about the same length share one
WIDEST: Final = 17  # tokens a row that the kernels take
CHUNK_TOKENS: Final = (
    32768  # of a prompt that are fed at once, over all rows: what they compute on the way would be gigabytes
)
# Tokens a row. The first part of a prompt attends without a mask, which is faster.
SHORTEST_CHUNK, LONGEST_CHUNK = 64, 4096
FOLDED: Final = 32  # up to so many queries a row, the query heads of a key-value head are laid along the queries: no key is repeated


@final
class FusedNetwork(Network):
    def __init__(
        self,
        decoder: DecoderWeights,
        *,
        kernels: bool,
        recorder: Callable[[], Recorder] | None = None,
    ) -> None:
        """`kernels`: decode steps always run through them; they are recorded if a `recorder` can be made."""
        self._decoder, self._kernels, self._recorder = decoder, kernels, recorder
        self.dtype = decoder.embedding.dtype
        # Norms and rotation are the model's to the last bit. They need not be where sums run in another order anyway: steps on a CPU then
        # run through kernels too, if these could be compiled.
        self.exact = True
        self._layout = 0
        self._size = (0, 0)  # rows, columns
        self._graphs: Graphs | None = None
        self._steppers: dict[
            tuple[int, bool], Stepper
        ] = {}  # by tokens a row, and whether every one gets logits

    def start(self, batch: int, capacity: int) -> None:
        """Room for `batch` rows of `capacity` tokens each, empty. What is there stays where it is, as long as it is large enough."""
        rows, columns = self._size
        if rows != batch or columns < capacity:
            self._allocate(batch, -(-capacity // COLUMNS) * COLUMNS)
        # What a shorter row has not written is multiplied by zero, which is no zero if it happens to be infinite.
        self._keys_values[:, :, :capacity].zero_()
        self.chunk = max(SHORTEST_CHUNK, min(LONGEST_CHUNK, CHUNK_TOKENS // batch))

    def suit(self, *, exact: bool, layout: int) -> None:
        """For a batch that was started. `layout`: another number tells that linears have their weights elsewhere."""
        self.exact = exact
        if layout != self._layout and self._recorder is not None:
            self._layout, self._graphs = layout, Graphs(self._recorder())

    def refresh(self) -> None:
        """Takes over the values that the model's weights have now; addresses stay, and so do recorded steps."""
        self._decoder.refresh()

    def _allocate(self, batch: int, columns: int) -> None:
        of = self._decoder
        # Recorded steps know the addresses of the cache: they go before it does. Without enough memory for another, there is none.
        self._size, self._graphs, self._steppers = (0, 0), None, {}
        self._keys_values = of.embedding.new_empty(0)
        # A column more: padding is written there. On a CPU what a head reads lies in one piece.
        home = of.embedding.device
        sizes = {
            "batch": batch,
            "columns": columns + 1,
            "kinds": 2,
            "heads": of.kv_heads,
            "width": of.head_width,
        }
        order = ("batch", "kinds", "heads", "columns", "width") if home.type == "cpu" else tuple(sizes)
        # Zeros: drafts may look further than what `start` clears, and what is masked is multiplied by zero.
        cache = of.embedding.new_zeros(len(of.blocks), *(sizes[name] for name in order))
        self._keys_values = cache.permute(
            0, *(1 + order.index(name) for name in sizes)
        )  # [L, B, columns + 1, 2, H_kv, d]
        self._rows = torch.arange(batch, device=home)[:, None]
        self._columns = torch.arange(columns, device=home)
        cos, sin = of.rotary(of.embedding, self._columns[None])
        first = of.head_width // 2
        self._cos, self._sin = cos[0], torch.cat((-sin[0, :, :first], sin[0, :, first:]), dim=-1)
        self._graphs = None if self._recorder is None else Graphs(self._recorder())
        self._size = (batch, columns)

    def forward(
        self,
        planned: Pass,
        ids: Tensor,
        *,
        length: int | None = None,
        key: Hashable | None = None,
        every: bool = False,
    ) -> Tensor:
        position, width, longest = planned.position, planned.width, length or ids.shape[1]
        kernels = self._kernels or (
            not self.exact and steps_compiled(self._decoder.embedding, self._decoder.head_width)
        )
        if not kernels or planned.prompt or width > WIDEST:
            return self._plain(ids[:, -width:], position, longest, every)
        stepper = self._stepper(width, every)
        stepper.ids.copy_(ids[:, -width:])
        stepper.position.copy_(position)
        return (
            stepper()
            if self._graphs is None or key is None
            else self._graphs.run((width, every, key), stepper)
        )

    def _stepper(self, width: int, every: bool) -> Stepper:
        if (width, every) not in self._steppers:
            from regrow.decoding.stepper import Stepper

            with (
                torch.inference_mode(mode=False),
                torch.no_grad(),
            ):  # its buffers outlive the caller's inference mode
                halves = self._decoder.rotary(
                    self._cos.new_empty(0, dtype=torch.float32), self._columns[None]
                )
                cos, sin = (table[0, :, : self._decoder.head_width // 2].contiguous() for table in halves)
                self._steppers[width, every] = Stepper(
                    self._decoder, self._keys_values, cos, sin, self._size[0], width, every=every
                )
        return self._steppers[width, every]

    def _plain(self, ids: Tensor, position: Tensor, length: int, every: bool) -> Tensor:
        of = self._decoder
        at = torch.where(position < 0, self._size[1], position)
        held = position.clamp(min=0)
        cos, sin = self._cos[held][:, :, None], self._sin[held][:, :, None]  # [B, w, 1, d]
        mask = self._mask(held, length)
        keys, values = (kind.unbind() for kind in self._keys_values[:, :, :length].permute(3, 0, 1, 4, 2, 5))
        x = of.embedding[ids]
        for layer, block in enumerate(of.blocks):
            query = self._query(
                block, self._keys_values[layer], self._norm(x, block.attention_norm), at, cos, sin
            )
            x += block.output(self._attended(query, keys[layer], values[layer], mask))
            x += block.ffn(self._norm(x, block.ffn_norm))
        return of.head(self._norm(x if every else x[:, -1], of.norm))

    def _norm(self, x: Tensor, norm: Norm) -> Tensor:
        """RMSNorm with the operations and dtypes of transformers' modules, or in torch's one call, a rounding less in bfloat16."""
        return (
            norm.weight * unit(x, norm.eps)
            if self.exact
            else rms_norm(x, norm.weight.shape, norm.weight, norm.eps)
        )

    def _mask(self, position: Tensor, length: int) -> Tensor | None:
        """Of the queries at `position` [B, w], as `_attended` lays them out, over the first `length` columns; None where it hides nothing
        but what comes later in the text."""
        width = position.shape[1]
        # A GPU would have to be waited for.
        if (
            position.device.type == "cpu"
            and width in (1, length)
            and bool((position == self._columns[length - width : length]).all())
        ):
            return None
        seen = (self._columns[:length] <= position[:, :, None])[:, None]  # [B, 1, w, length]
        if width > FOLDED:
            return seen
        if width > 1:
            seen = seen.repeat_interleave(
                self._decoder.heads // self._decoder.kv_heads, dim=2
            )  # for each query head of a key-value head
        # As what is added to the scores: a mask of bools would be made that in every layer.
        return torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(
            ~seen, float("-inf")
        )

    def _query(self, block: Block, cache: Tensor, x: Tensor, at: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, w, H, d] of the normed x [B, w, D]; keys and values go to the columns `at` [B, w] of `cache` [B, columns, 2, H_kv, d]."""
        of = self._decoder
        qkv = block.qkv(x).view(*at.shape, -1, of.head_width)
        query, value = qkv.split_with_sizes((of.heads + of.kv_heads, of.kv_heads), dim=2)
        if block.query_norm is not None and block.key_norm is not None:
            parts = query.split_with_sizes((of.heads, of.kv_heads), dim=2)
            query = torch.cat(
                [
                    self._norm(*of_head)
                    for of_head in zip(parts, (block.query_norm, block.key_norm), strict=True)
                ],
                dim=2,
            )
        query, key = _rotated(query, cos, sin).split_with_sizes((of.heads, of.kv_heads), dim=2)
        cache.index_put_((self._rows, at), torch.stack((key, value), dim=2))
        return query

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """[B, w, H d] of query [B, w, H, d], keys and values [B, H_kv, length, d]."""
        of = self._decoder
        batch, width = query.shape[:2]
        groups = of.heads // of.kv_heads
        if width > FOLDED or (
            mask is None and width > 1
        ):  # fused attention takes no shared heads: they are repeated
            keys, values = (shared.repeat_interleave(groups, dim=1) for shared in (keys, values))
            y = scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, mask, is_causal=mask is None
            )
            return y.transpose(1, 2).flatten(2)
        if width == 1:
            return scaled_dot_product_attention(
                query.view(batch, of.kv_heads, groups, -1), keys, values, mask
            ).reshape(batch, 1, -1)
        query = (
            query.view(batch, width, of.kv_heads, groups, -1).transpose(1, 2).flatten(2, 3)
        )  # [B, H_kv, w groups, d]
        y = scaled_dot_product_attention(query, keys, values, mask)
        return y.reshape(batch, of.kv_heads, width, -1).transpose(1, 2).flatten(2)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`sin` with the sign of what it is multiplied with: the first half of a head's width gets minus the second."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos).add_(torch.cat((second, first), dim=-1).mul_(sin))
