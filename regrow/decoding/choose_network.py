"""Which way a model is run: by its parts where they are known and compute the same, otherwise by its own forward."""

from __future__ import annotations

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
from regrow.decoding.attention import DecodeAttention
from regrow.decoding.fused import FusedNetwork
from regrow.decoding.graphs import CudaRecorder
from regrow.decoding.network import Network, StockNetwork
from regrow.decoding.same_logits import attends_alike, same_by_parts
from regrow.errors import UsageError
from regrow.kernels import choose_matmul, record

# Whether a model by its parts, and with our attention, gave its logits, and the structure it had then. Both tests feed a
# text of hundreds of tokens, so that one prune context after another should not repeat them.
_Verdicts = WeakKeyDictionary[PreTrainedModel, tuple[Hashable, bool]]
_BY_PARTS: Final[_Verdicts] = WeakKeyDictionary()
_ATTENDS: Final[_Verdicts] = WeakKeyDictionary()


@final
class Networks:
    def __init__(self, model: PreTrainedModel, layout: Layout = Layout.STORED) -> None:
        """`layout`: of the weights of a model that is run by its parts on a CPU."""
        self._model, self._layout = model, layout
        size = sum(parameter.nbytes for parameter in model.parameters())
        self.matmul = choose_matmul(model.dtype, model.device, size)
        self._kernels = model.device.type == "cuda" and model.dtype != torch.float64
        self._fused: FusedNetwork | None = None
        self._laid_out: LaidOut | None = None  # its linears, where they may be
        self._of: Hashable = None  # the structure and the tensors that it was made of

    @property
    def nbytes(self) -> int:
        """Memory that laid-out weights take beside the model's own."""
        return 0 if self._laid_out is None else self._laid_out.nbytes

    @property
    def moves(self) -> Hashable:
        """Another value tells that weights lie elsewhere."""
        return self._laid_out, 0 if self._laid_out is None else self._laid_out.moves

    def rest(self) -> None:
        """After a batch: modules run their own forwards, unless their weights were given up."""
        if self._laid_out is not None:
            self._laid_out.stop()

    def close(self) -> None:
        """The model has its weights again."""
        if self._laid_out is not None:
            self._laid_out.give_back()

    def for_batch(self, ids: Tensor, capacity: int, inputs: dict[str, Any], *, returned: bool) -> Network:
        """For a batch of prompts ids [B, P] that grows to `capacity` columns. `inputs` are what else transformers prepared,
        `returned`: the caller gets the cache in there.

        Raises UsageError where the model brings a decode loop of its own, which ours would go around.
        """
        model, mask, positions = self._model, inputs.get("attention_mask"), inputs.get("position_ids")
        if part := replaced_loop(model):
            raise UsageError(
                f"{part} of the model was replaced, and Regrow brings its own decode loop; undo that, or decode without Regrow"
            )
        if inputs["past_key_values"].get_seq_length() > 0:  # columns of the batch are not those of the cache
            self.close()
            return StockNetwork(model, ids.shape[1], inputs)
        cast = torch.is_autocast_enabled(
            model.device.type
        )  # then it computes in other dtypes than it is stored in
        numbered = positions is not None and _in_order(mask, positions.expand_as(ids))
        shipped = not cast and positions is not None and not prepares_its_own_inputs(model)
        if shipped and numbered and not returned and _only_grows(inputs["past_key_values"]):
            fused = self._by_parts()
            if fused is not None:
                fused.start(len(ids), capacity)
                exact = self._laid_out is None or self._laid_out.suit(len(ids))
                fused.suit(exact=exact, layout=0 if self._laid_out is None else self._laid_out.layouts)
                self._of = (structure(model), _tensors(model))  # weights that were laid out lie elsewhere
                return fused
        self.close()
        ours = self._kernels and shipped and _without_gaps(mask) and self._attends_alike()
        return StockNetwork(
            model, ids.shape[1], inputs, DecodeAttention(model, mask, len(ids)) if ours else None
        )

    def check(self, network: Network) -> None:
        """Raises UsageError where the model was hooked into since the batch began, and its network goes around its forward."""
        if isinstance(network, FusedNetwork) and not pristine(self._model):
            raise UsageError(
                "the model was hooked into in the middle of a generation that would go around the hook; register it before or afterwards"
            )

    def _by_parts(self) -> FusedNetwork | None:
        """The model by its parts as it is now, if it is known, and as transformers ships it, and gives the same logits that way."""
        model = self._model
        if not readable(model):
            return None
        found = structure(model)
        if self._of != (found, _tensors(model)):
            self.close()
            self._fused, self._laid_out, self._of = (
                None,
                None,
                (found, _tensors(model)),
            )  # the memory of the old one goes first
            decoder = read(model)
            network = FusedNetwork(
                decoder, kernels=self._kernels, recorder=CudaRecorder if self._kernels else lambda: record
            )
            inexact = self._layout is not Layout.STORED
            test = partial(same_by_parts, model, network, inexact=inexact)
            same = _remembered(_BY_PARTS, model, (found, self._kernels, inexact), test)
            self._fused = network if same else None
            if same and inexact:
                self._laid_out = LaidOut(model, decoder, self.matmul, self._layout)
        elif self._fused is not None:
            self._fused.refresh()
        return self._fused

    def _attends_alike(self) -> bool:
        model = self._model
        if model.config._attn_implementation != "sdpa" or not pristine(
            model
        ):  # another was chosen, or is needed
            return False
        return _remembered(_ATTENDS, model, structure(model), partial(attends_alike, model))


def _remembered(
    verdicts: _Verdicts, model: PreTrainedModel, found: Hashable, test: Callable[[], bool]
) -> bool:
    known = verdicts.get(model)
    if known is None or known[0] != found:
        known = verdicts[model] = (found, test())
    return known[1]


def _tensors(model: PreTrainedModel) -> Hashable:
    """Which modules and which tensors a model is made of; values written into the tensors are not told."""
    modules = tuple((id(module), has_other_forward(module)) for module in model.modules())
    return modules, tuple(parameter.data_ptr() for parameter in model.parameters())


def _only_grows(cache: Any) -> bool:
    """Whether this is a cache that keeps all keys and values as they come, which any other cache may stand in for."""
    if type(cache) is not DynamicCache or not has_class_methods(cache):
        return False
    return all(type(layer) is DynamicLayer and has_class_methods(layer) for layer in cache.layers)


def _in_order(mask: Tensor | None, positions: Tensor) -> bool:
    """Whether a row's tokens are numbered 0, 1, 2, ..."""
    if mask is None:
        return torch.equal(
            positions, torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
        )
    return torch.equal(torch.where(mask.bool(), positions, 0), (mask.cumsum(1) - 1) * mask)


def _without_gaps(mask: Tensor | None) -> bool:
    """Whether a row's padding all comes before its tokens."""
    return mask is None or torch.equal(mask, (mask.cumsum(1) > 0).to(mask))
