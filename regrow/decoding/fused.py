"""Runs a decoder over a cache of fixed size, in fewer and larger operations than the model's own forward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from regrow.adapter.llama_like import Block, DecoderWeights, Norm
from regrow.adapter.quantized_copy import QuantizedCopy
from regrow.core import Pass
from regrow.decoding.graphs import Graphs, Recorder
from regrow.decoding.network import Network
from regrow.kernels import SparseFFN, steps_compiled, unit

if TYPE_CHECKING:
    from regrow.decoding.stepper import Stepper

COLUMNS: Final = 256  # cache lengths are multiples of this, so batches of similar length share a cache
WIDEST: Final = 17  # most tokens per row that the kernels take
# Most prompt tokens that are fed at once, over all rows. Intermediate results of more would take gigabytes.
CHUNK_TOKENS: Final = 32768
# Bounds on the prompt tokens per row that are fed at once. Only the first chunk can attend without a mask,
# which is faster.
SHORTEST_CHUNK, LONGEST_CHUNK = 64, 4096
# Up to this many queries per row, the query heads of a key-value head are folded into the query dimension, so
# that no key is repeated.
FOLDED: Final = 32


@final
class FusedNetwork(Network):
    """Runs a decoder of a known family without the model's own forward."""

    def __init__(
        self,
        decoder: DecoderWeights,
        *,
        kernels: bool,
        recorder: Callable[[], Recorder] | None = None,
        steps: DecoderWeights | None = None,
    ) -> None:
        """Takes the weights, and how decode steps run.

        `steps` is what decode steps run instead of `decoder`, with the same weights in another form. With
        `kernels`, decode steps always run through the kernels. Steps through the kernels are recorded if
        there is a `recorder`.
        """
        self._decoder, self._kernels, self._recorder = decoder, kernels, recorder
        self._steps = decoder if steps is None else steps
        self.dtype = decoder.embedding.dtype
        # True: norms and rotary embedding equal the model's bit for bit. False: matmuls sum in another order
        # anyway, so decode steps on a CPU also run through the kernels, if these could be compiled.
        self.exact = True
        self._layout = 0
        self._size = (0, 0)  # rows, columns
        self._graphs: Graphs | None = None
        self._copy: QuantizedCopy | None = None
        self._masked: dict[int | None, tuple[DecoderWeights, Sequence[SparseFFN]]] = {}  # by neurons kept
        # By decoder, tokens per row, and whether every token gets logits.
        self._steppers: dict[tuple[int, int, bool], Stepper] = {}

    def start(self, batch: int, capacity: int) -> None:
        """Provides an empty cache for `batch` rows of `capacity` tokens each.

        The existing cache is reused if it has as many rows and is long enough.
        """
        rows, columns = self._size
        if rows != batch or columns < capacity:
            self._allocate(batch, -(-capacity // COLUMNS) * COLUMNS)
        # Masked positions get weight 0, but 0 * inf is NaN, so unwritten cache must be cleared.
        self._keys_values[:, :, :capacity].zero_()
        self.chunk = max(SHORTEST_CHUNK, min(LONGEST_CHUNK, CHUNK_TOKENS // batch))

    def suit(self, *, exact: bool, layout: int) -> None:
        """Prepares a started batch for the current weights.

        `layout` is a number that changes when the weights of linear layers have moved.
        """
        self.exact = exact
        if layout != self._layout and self._recorder is not None:
            self._layout, self._graphs = layout, Graphs(self._recorder())

    def draft_with(self, copy: QuantizedCopy) -> None:
        """Makes `copy`, plain or masked, what can draft."""
        if copy is not self._copy:
            self._copy, self._masked, self._steppers = copy, {}, {}
            self._graphs = None if self._recorder is None else Graphs(self._recorder())

    @property
    def copy(self) -> DecoderWeights:
        """What `draft_with` was given."""
        assert self._copy is not None, "there is no copy to draft with"
        return self._copy.decoder

    def masked_copy(
        self, layers: Collection[int], keep: int | None
    ) -> tuple[DecoderWeights, Sequence[SparseFFN]]:
        """Returns the copy with a mask, and the FFNs that have to load it; see `QuantizedCopy.masked`.

        The layers are the same in every call.
        """
        assert self._copy is not None, "there is no copy to draft with"
        if keep not in self._masked:
            self._masked[keep] = self._copy.masked(self._decoder, layers, keep)
        return self._masked[keep]

    def refresh(self) -> None:
        """Updates the copied weights with the model's current values.

        Addresses stay the same, so recorded steps stay valid.
        """
        self._decoder.refresh()

    def _allocate(self, batch: int, columns: int) -> None:
        decoder = self._decoder
        # Recorded steps hold the addresses of the cache, so they are dropped before it. If a new cache does
        # not fit in memory, there is none until the next call.
        self._size, self._graphs, self._steppers = (0, 0), None, {}
        self._keys_values = decoder.embedding.new_empty(0)
        # One more column takes the keys and values of padding. On a CPU, the keys of each head of a row are
        # contiguous, and so are its values.
        device = decoder.embedding.device
        sizes = {
            "batch": batch,
            "columns": columns + 1,
            "kinds": 2,
            "heads": decoder.kv_heads,
            "width": decoder.head_width,
        }
        order = ("batch", "kinds", "heads", "columns", "width") if device.type == "cpu" else tuple(sizes)
        # Zeros, because drafts may read beyond what `start` clears, and masked values are multiplied by zero.
        cache = decoder.embedding.new_zeros(len(decoder.blocks), *(sizes[name] for name in order))
        # [L, B, columns + 1, 2, H_kv, d]
        self._keys_values = cache.permute(0, *(1 + order.index(name) for name in sizes))
        self._rows = torch.arange(batch, device=device)[:, None]
        self._columns = torch.arange(columns, device=device)
        cos, sin = decoder.rotary(decoder.embedding, self._columns[None])
        half = decoder.head_width // 2
        self._cos, self._sin = cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
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
        decoder = self._decoder if planned.prompt or planned.width > WIDEST else self._steps
        return self._run(decoder, planned, ids, length or ids.shape[1], key, every)

    def draft(
        self, copy: DecoderWeights, planned: Pass, ids: Tensor, *, length: int, key: Hashable | None
    ) -> Tensor:
        """Does what `forward` does with the weights of a copy, over the same cache."""
        return self._run(copy, planned, ids, length, key, every=False)

    def _run(
        self,
        decoder: DecoderWeights,
        planned: Pass,
        ids: Tensor,
        length: int,
        key: Hashable | None,
        every: bool,
    ) -> Tensor:
        position, width = planned.position, planned.width
        exact = self.exact and decoder is self._decoder
        kernels = self._kernels or (not exact and steps_compiled(decoder.embedding, decoder.head_width))
        if not kernels or planned.prompt or width > WIDEST:
            return self._plain(decoder, ids[:, -width:], position, length, every)
        stepper = self._stepper(decoder, width, every)
        stepper.ids.copy_(ids[:, -width:])
        stepper.position.copy_(position)
        if self._graphs is None or key is None:
            return stepper()
        return self._graphs.run((id(decoder), width, every, key), stepper)

    def _stepper(self, decoder: DecoderWeights, width: int, every: bool) -> Stepper:
        kind = id(decoder), width, every
        if kind not in self._steppers:
            from regrow.decoding.stepper import Stepper

            # The stepper's buffers outlive the caller's inference mode.
            with torch.inference_mode(mode=False), torch.no_grad():
                halves = decoder.rotary(self._cos.new_empty(0, dtype=torch.float32), self._columns[None])
                cos, sin = (table[0, :, : decoder.head_width // 2].contiguous() for table in halves)
                self._steppers[kind] = Stepper(
                    decoder, self._keys_values, cos, sin, self._size[0], width, every=every
                )
        return self._steppers[kind]

    def _plain(
        self, decoder: DecoderWeights, ids: Tensor, position: Tensor, length: int, every: bool
    ) -> Tensor:
        at = torch.where(position < 0, self._size[1], position)
        clamped = position.clamp(min=0)
        cos, sin = self._cos[clamped][:, :, None], self._sin[clamped][:, :, None]  # [B, w, 1, d]
        mask = self._mask(clamped, length)
        keys, values = (kind.unbind() for kind in self._keys_values[:, :, :length].permute(3, 0, 1, 4, 2, 5))
        x = decoder.embedding[ids]
        for layer, block in enumerate(decoder.blocks):
            query = self._query(
                block, self._keys_values[layer], self._norm(x, block.attention_norm), at, cos, sin
            )
            x += block.output(self._attended(query, keys[layer], values[layer], mask))
            x += block.ffn(self._norm(x, block.ffn_norm))
        return decoder.head(self._norm(x if every else x[:, -1], decoder.norm))

    def _norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Applies RMSNorm.

        If `exact`, operations and dtypes are those of transformers' modules. Otherwise it is torch's single
        call, which has one rounding less in bfloat16.
        """
        return (
            norm.weight * unit(x, norm.eps)
            if self.exact
            else rms_norm(x, norm.weight.shape, norm.weight, norm.eps)
        )

    def _mask(self, position: Tensor, length: int) -> Tensor | None:
        """Returns the mask of the queries at `position` [B, w] over the first `length` columns.

        Its layout is the one that `_attended` uses. None means that it would mask
        only tokens that come later in the text.
        """
        width = position.shape[1]
        # On a GPU, comparing positions would synchronise.
        if (
            position.device.type == "cpu"
            and width in (1, length)
            and bool((position == self._columns[length - width : length]).all())
        ):
            return None
        visible = (self._columns[:length] <= position[:, :, None])[:, None]  # [B, 1, w, length]
        if width > FOLDED:
            return visible
        if width > 1:
            # Repeated for each query head of a key-value head.
            visible = visible.repeat_interleave(self._decoder.heads // self._decoder.kv_heads, dim=2)
        # An additive mask, because attention would convert a boolean mask in every layer.
        return torch.zeros(visible.shape, dtype=self.dtype, device=visible.device).masked_fill_(
            ~visible, float("-inf")
        )

    def _query(self, block: Block, cache: Tensor, x: Tensor, at: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Returns the queries [B, w, H, d] of the normed x [B, w, D].

        Keys and values are written to the columns `at` [B, w] of `cache` [B, columns, 2, H_kv, d].
        """
        decoder = self._decoder
        qkv = block.qkv(x).view(*at.shape, -1, decoder.head_width)
        query, value = qkv.split_with_sizes((decoder.heads + decoder.kv_heads, decoder.kv_heads), dim=2)
        if block.query_norm is not None and block.key_norm is not None:
            parts = query.split_with_sizes((decoder.heads, decoder.kv_heads), dim=2)
            query = torch.cat(
                [
                    self._norm(*part_and_norm)
                    for part_and_norm in zip(parts, (block.query_norm, block.key_norm), strict=True)
                ],
                dim=2,
            )
        query, key = _rotated(query, cos, sin).split_with_sizes((decoder.heads, decoder.kv_heads), dim=2)
        cache.index_put_((self._rows, at), torch.stack((key, value), dim=2))
        return query

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Returns y [B, w, H d] for query [B, w, H, d], keys and values [B, H_kv, length, d]."""
        decoder = self._decoder
        batch, width = query.shape[:2]
        groups = decoder.heads // decoder.kv_heads
        # torch's fused attention does not share key-value heads here, so they are repeated.
        if width > FOLDED or (mask is None and width > 1):
            keys, values = (shared.repeat_interleave(groups, dim=1) for shared in (keys, values))
            y = scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, mask, is_causal=mask is None
            )
            return y.transpose(1, 2).flatten(2)
        if width == 1:
            return scaled_dot_product_attention(
                query.view(batch, decoder.kv_heads, groups, -1), keys, values, mask
            ).reshape(batch, 1, -1)
        # [B, H_kv, w groups, d]
        query = query.view(batch, width, decoder.kv_heads, groups, -1).transpose(1, 2).flatten(2, 3)
        y = scaled_dot_product_attention(query, keys, values, mask)
        return y.reshape(batch, decoder.kv_heads, width, -1).transpose(1, 2).flatten(2)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies the rotary embedding to x [..., d]; the first half of `sin` is already negated."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos).add_(torch.cat((second, first), dim=-1).mul_(sin))
