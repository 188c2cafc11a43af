"""Which way a model is run: by its parts where they are known and compute the same, otherwise by its own forward."""

from __future__ import annotations

from typing import Any, Final, final

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from regrow.adapter.llama_like import read, readable, slides
from regrow.core import Mode, Pass
from regrow.decoding.attention import DecodeAttention
from regrow.decoding.fused import FusedNetwork
from regrow.decoding.graphs import CudaRecorder
from regrow.decoding.network import Network, StockNetwork

# Relative error of the logits of one short text: two orders of summation differ by some roundings a layer, other maths by far more.
TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


@final
class Networks:
    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._kernels = model.device.type == "cuda" and model.dtype != torch.float64
        self._fused: FusedNetwork | None = None
        self._of: list[tuple[int, int]] | None = None  # the weights it was made of: address and version of each
        self._alike: bool | None = None  # None: not known yet

    def for_batch(self, ids: Tensor, capacity: int, inputs: dict[str, Any], *, returned: bool) -> Network:
        """For a batch of prompts ids [B, P] that grows to `capacity` columns. `inputs` are what else transformers prepared, `returned`: the
        caller gets the cache in there."""
        mask, positions = inputs.get("attention_mask"), inputs["position_ids"].expand_as(ids)
        ordinary = type(inputs["past_key_values"]) is DynamicCache and not returned and _in_order(mask, positions)
        fused = self._by_parts() if ordinary else None
        if fused is None:
            ours = self._kernels and _without_gaps(mask) and self._attends_alike()
            attention = DecodeAttention(self._model, mask, len(ids)) if ours else None
            return StockNetwork(self._model, ids.shape[1], inputs, attention)
        fused.start(len(ids), capacity)
        return fused

    def _by_parts(self) -> FusedNetwork | None:
        if not readable(self._model):
            return None
        weights = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self._model.parameters()]
        if weights != self._of:
            self._fused, self._of = _checked(self._model, kernels=self._kernels), weights
        return self._fused

    def _attends_alike(self) -> bool:
        if self._model.config._attn_implementation != "sdpa":  # another was chosen, or is needed
            return False
        if self._alike is None:
            self._alike = attends_alike(self._model)
        return self._alike


def _in_order(mask: Tensor | None, positions: Tensor) -> bool:
    """Whether a row's tokens are numbered 0, 1, 2, ..."""
    if mask is None:
        return torch.equal(positions, torch.arange(positions.shape[1], device=positions.device).expand_as(positions))
    return torch.equal(torch.where(mask.bool(), positions, 0), (mask.cumsum(1) - 1) * mask)


def _without_gaps(mask: Tensor | None) -> bool:
    """Whether a row's padding all comes before its tokens."""
    return mask is None or torch.equal(mask, (mask.cumsum(1) > 0).to(mask))


def _checked(model: PreTrainedModel, *, kernels: bool) -> FusedNetwork | None:
    """The model by its parts, if that gives its logits on a short text."""
    network = FusedNetwork(read(model), kernels=kernels, recorder=CudaRecorder if kernels else None)
    ids = torch.arange(8, device=model.device).view(2, 4) % model.config.vocab_size
    position = torch.arange(4, device=model.device).expand(2, 4)
    network.start(2, 4)
    theirs = model(ids, use_cache=False).logits[:, -1]
    whole = network.forward(_pass(position, prompt=True), ids)
    network.forward(_pass(position[:, :3], prompt=True), ids[:, :3])
    step = network.forward(_pass(position[:, 3:], prompt=False), ids)
    return network if all(_close(ours, theirs, model.dtype) for ours in (whole, step)) else None


def attends_alike(model: PreTrainedModel) -> bool:
    """Whether a decode step gives the same logits through our attention, after a short ragged prompt."""
    if slides(model.config):
        return False
    ids = torch.arange(10, device=model.device).view(2, 5) % model.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], device=model.device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    logits = []
    for attention in (None, DecodeAttention(model, mask, 2)):
        cache = {"past_key_values": DynamicCache(config=model.config), "use_cache": True}
        inputs = {"attention_mask": mask[:, :4], "position_ids": position[:, :4], **cache}
        network = StockNetwork(model, 4, inputs, attention)
        network.forward(_pass(position[:, :4], prompt=True), ids[:, :4])
        try:
            logits.append(network.forward(_pass(position[:, 4:], prompt=False), ids))
        except Exception:  # noqa: BLE001 (attention with more to it, a forward that does not pass on what ours needs, or that objects to it)
            return False
    return _close(logits[1], logits[0], model.dtype)


def _pass(position: Tensor, *, prompt: bool) -> Pass:
    """A pass that nobody counts, of tokens at `position` [B, w]."""
    return Pass(Mode.DENSE, torch.full_like(position, -1).flatten(), position, prompt=prompt, decode=not prompt)


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    return bool((ours.double() - theirs.double()).norm() <= TOLERANCE[dtype] * theirs.double().norm())
