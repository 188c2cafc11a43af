"""Chooses how a model runs.

It runs fused if its architecture is known and the logits agree, and through its own forward otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from regrow.adapter.lay_out import LaidOut, Layout
from regrow.adapter.llama_like import read, readable
from regrow.adapter.plain import has_other_forward
from regrow.adapter.pristine import (
    has_class_methods,
    prepares_its_own_inputs,
    pristine,
    replaced_loop,
    structure,
)
from regrow.adapter.quantized_copy import QuantizedCopy
from regrow.adapter.rounded import PackedBlocks, packed_blocks
from regrow.decoding.attention import DecodeAttention
from regrow.decoding.fused import WIDEST, FusedNetwork
from regrow.decoding.graphs import CudaRecorder
from regrow.decoding.network import Network, StockNetwork
from regrow.decoding.same_logits import attends_alike, same_by_parts
from regrow.decoding.window import Measurement
from regrow.errors import UsageError
from regrow.kernels import choose_matmul, record

_LOG: Final = logging.getLogger(__name__)

# Whether a model gave the same logits when fused, or with our attention, and its structure at that time. Both
# tests feed a text of hundreds of tokens, so the results are kept from one prune context to the next.
_Verdicts = WeakKeyDictionary[PreTrainedModel, tuple[Hashable, bool]]
_BY_PARTS: Final[_Verdicts] = WeakKeyDictionary()
_ATTENDS: Final[_Verdicts] = WeakKeyDictionary()


@final
class Networks:
    """Chooses the network for each batch of one model, and keeps what it is made of from batch to batch."""

    def __init__(self, model: PreTrainedModel, layout: Layout = Layout.STORED) -> None:
        """`layout` is how the weights of a fused model are stored on a CPU."""
        self._model, self._layout = model, layout
        # What lossless decoding has measured on this model, by the rows of a batch and what drafts.
        self._measured: dict[tuple[int, Hashable], Measurement] = {}
        size = sum(parameter.nbytes for parameter in model.parameters())
        self.matmul = choose_matmul(model.dtype, model.device, size)
        for products in self.matmul.to_text().values():
            _LOG.info("matmul on this CPU: %s", products)
        self._kernels = model.device.type == "cuda" and model.dtype != torch.float64
        self._fused: FusedNetwork | None = None
        self._laid_out: LaidOut | None = None  # the model's linear layers, if they may be laid out
        self._copy: QuantizedCopy | None = None  # the latest 4-bit copy
        self._packed: PackedBlocks | None = None  # codes of the current weights, if these were rounded
        # Structure, tensors and codes of the model when `_fused` was built.
        self._built_from: Hashable = None

    @property
    def nbytes(self) -> int:
        """Bytes that laid-out weights, codes and a 4-bit copy take beside the model's own weights."""
        return sum(part.nbytes for part in (self._laid_out, self._packed, self._copy) if part is not None)

    @property
    def moves(self) -> Hashable:
        """A value that changes when weights are moved."""
        return self._laid_out, 0 if self._laid_out is None else self._laid_out.moves

    def end_batch(self) -> None:
        """Restores the modules' own forwards after a batch.

        Modules whose weights were moved into the laid-out copies keep their replaced forward until `close`.
        """
        if self._laid_out is not None:
            self._laid_out.stop()

    def close(self) -> None:
        """Gives the model its weights back."""
        if self._laid_out is not None:
            self._laid_out.give_back()

    def for_batch(
        self,
        ids: Tensor,
        capacity: int,
        inputs: dict[str, Any],
        *,
        returned: bool,
        group: int | None = None,
        rounding: Callable[[int, int], None] | None = None,
        several: bool = False,
    ) -> Network:
        """Returns the network for a batch of prompts `ids` [B, P] that grows to `capacity` columns.

        - `inputs`: the other inputs that transformers prepared.
        - `returned`: the caller gets the KV cache in `inputs` back.
        - `group`: a fused network can draft with a 4-bit copy of the weights, in groups of that many.
          `rounding(layers done, layers)` is called while the copy is made.
        - `several`: passes hold several tokens of each row.

        Raises UsageError if the model replaces parts of transformers' decode loop, which ours would bypass.
        """
        model, mask, positions = self._model, inputs.get("attention_mask"), inputs.get("position_ids")
        if part := replaced_loop(model):
            raise UsageError(
                f"{part} of the model was replaced, and Regrow brings its own decode loop; "
                "undo that, or decode without Regrow"
            )
        if inputs["past_key_values"].get_seq_length() > 0:  # cache columns differ from the batch's columns
            self.close()
            return StockNetwork(model, ids.shape[1], inputs)
        # Autocast computes in other dtypes than the weights are stored in.
        cast = torch.is_autocast_enabled(model.device.type)
        numbered = positions is not None and _in_order(mask, positions.expand_as(ids))
        shipped = not cast and positions is not None and not prepares_its_own_inputs(model)
        if shipped and numbered and not returned and _only_grows(inputs["past_key_values"]):
            fused = self._by_parts()
            if fused is not None:
                if group is not None:
                    fused.draft_with(self._rounded(group, rounding or _ignore))
                # A check may begin with a row's last token, and kernels see the columns of all its tokens.
                fused.start(len(ids), capacity + (WIDEST - 1 if several else 0))
                rows = max(len(ids), 2 if several else 1)
                exact = self._laid_out is None or self._laid_out.suit(rows)
                fused.suit(exact=exact, layout=0 if self._laid_out is None else self._laid_out.layouts)
                # Laying out has moved weights.
                self._built_from = (structure(model), _tensors(model), self._packed)
                laid_out = not exact and self.matmul.lays_out(rows)
                stored = "laid out for this CPU" if laid_out else "as stored"
                packed = "" if self._packed is None else "; decode steps multiply codes of 4 bits"
                _LOG.info("a batch of %d runs fused, with weights %s%s", len(ids), stored, packed)
                return fused
        self.close()
        _LOG.info("a batch of %d runs through the model's own forward", len(ids))
        ours = self._kernels and shipped and _without_gaps(mask) and self._attends_alike()
        return StockNetwork(
            model, ids.shape[1], inputs, DecodeAttention(model, mask, len(ids)) if ours else None
        )

    def measurement(self, rows: int, draft: Hashable) -> Measurement:
        """Returns what was measured for this draft and batches of this size, or what is to be measured."""
        return self._measured.setdefault((rows, draft), Measurement())

    def check(self, network: Network) -> None:
        """Raises UsageError if the model has been hooked and `network` bypasses its forward."""
        if isinstance(network, FusedNetwork) and not pristine(self._model):
            raise UsageError(
                "a hook was registered during a generation that bypasses it; "
                "register hooks before the generation or after it"
            )

    def _by_parts(self) -> FusedNetwork | None:
        """Returns the fused model with the current weights.

        Returns None if the family is unknown, if anything differs from what transformers ships, or if the
        logits differ.
        """
        model = self._model
        if not readable(model):
            _LOG.info("%s is not fused: it is changed, or of an unknown family", type(model).__name__)
            return None
        found, packed = structure(model), packed_blocks(model)
        if self._built_from != (found, _tensors(model), packed):
            self.close()
            # Drops the old network first, to free its memory.
            self._fused, self._laid_out, self._built_from = None, None, (found, _tensors(model), packed)
            self._decoder, self._packed = read(model), packed
            steps = self._decoder if packed is None else packed.decoder(model, self._decoder)
            network = FusedNetwork(
                self._decoder,
                kernels=self._kernels,
                recorder=CudaRecorder if self._kernels else lambda: record,
                steps=steps,
            )
            inexact = self._layout is not Layout.STORED
            test = partial(same_by_parts, model, network, inexact=inexact)
            state = found, self._kernels, inexact, packed is not None
            same = _remembered(_BY_PARTS, model, state, test)
            self._fused = network if same else None
            if not same:
                _LOG.info("%s is not fused: the logits would differ", type(model).__name__)
            if same and inexact:
                self._laid_out = LaidOut(model, steps, self.matmul, self._layout)
        elif self._fused is not None:
            self._fused.refresh()
        return self._fused

    def _rounded(self, group: int, rounding: Callable[[int, int], None]) -> QuantizedCopy:
        """Returns the 4-bit copy of the current weights."""
        copy, laid_out = self._copy, self._laid_out
        moved = laid_out is not None and laid_out.gave_up  # nobody can change these weights, or read them
        if copy is not None and copy.group == group and (moved or copy.fits(self._model, group)):
            return copy
        if laid_out is not None:
            laid_out.give_back()
        self._copy = None  # frees the old copy before the new one is made
        self._copy = QuantizedCopy.of(self._model, self._decoder, group, rounding)
        return self._copy

    def _attends_alike(self) -> bool:
        model = self._model
        # Another implementation was chosen by the user, or is required by the model.
        if model.config._attn_implementation != "sdpa" or not pristine(model):
            return False
        return _remembered(_ATTENDS, model, structure(model), partial(attends_alike, model))


def _remembered(
    verdicts: _Verdicts, model: PreTrainedModel, found: Hashable, test: Callable[[], bool]
) -> bool:
    """Returns the verdict for a model of the structure `found`, running the test if there is none yet."""
    known = verdicts.get(model)
    if known is None or known[0] != found:
        known = verdicts[model] = (found, test())
    return known[1]


def _tensors(model: PreTrainedModel) -> Hashable:
    """Returns a value that changes with the modules and tensors of a model.

    It does not change when values are written into the tensors.
    """
    modules = tuple((id(module), has_other_forward(module)) for module in model.modules())
    return modules, tuple(parameter.data_ptr() for parameter in model.parameters())


def _only_grows(cache: Any) -> bool:
    """Returns True for a plain cache that keeps all keys and values as they come.

    Any other cache may replace such a cache.
    """
    if type(cache) is not DynamicCache or not has_class_methods(cache):
        return False
    return all(type(layer) is DynamicLayer and has_class_methods(layer) for layer in cache.layers)


def _in_order(mask: Tensor | None, positions: Tensor) -> bool:
    """Returns True if the tokens of each row have positions 0, 1, 2, ..."""
    if mask is None:
        return torch.equal(
            positions, torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
        )
    return torch.equal(torch.where(mask.bool(), positions, 0), (mask.cumsum(1) - 1) * mask)


def _without_gaps(mask: Tensor | None) -> bool:
    """Returns True if all padding of a row comes before its tokens."""
    return mask is None or torch.equal(mask, (mask.cumsum(1) > 0).to(mask))


def _ignore(_done: int, _layers: int) -> None:
    """Stands in for a callback that was not given."""
