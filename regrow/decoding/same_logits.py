"""Checks whether two ways to run a model give the same logits, on a text long enough to tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from regrow.adapter.llama_like import slides
from regrow.core import Mode, Pass
from regrow.decoding.attention import DecodeAttention
from regrow.decoding.fused import FusedNetwork
from regrow.decoding.network import StockNetwork

# Relative error of the logits, over all tokens of a pass at once. Two orders of summation differ by some
# roundings per layer: 6e-7 in float32, 2e-3 in float16 and 8e-3 in bfloat16 were measured on 28 layers, and
# trained models amplify some of it. Attending to other tokens, or a scale that is off by a tenth, changes the
# logits far more.
TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}

# Tokens per row: more than the windows of small models, and enough for most changes that start late. A large
# model gets fewer on a CPU, where they cost about 1e11 operations.
LONGEST, SHORTEST, CPU_WORK = 256, 32, 1e10
STEPS: Final = 3  # decode steps after the prompt


def same_by_parts(model: PreTrainedModel, network: FusedNetwork, *, inexact: bool = False) -> bool:
    """Returns True if the fused model and the model's own forward give the same logits.

    They are compared at every token of a ragged prompt, and in decode steps after it. With `inexact`, the
    decode steps are compared in both modes of `FusedNetwork.exact`.
    """
    ids, mask, position = _text(model)
    length = ids.shape[1] - STEPS
    network.start(len(ids), ids.shape[1])
    cache = DynamicCache(config=model.config)
    for start, stop in _passes(length):
        theirs = model(
            input_ids=ids[:, start:stop],
            attention_mask=mask[:, :stop],
            position_ids=position[:, start:stop].clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        ).logits
        live = mask[:, start:stop].bool()
        # Decode steps give the last logits alone, as in the loop, so that no other buffers are made.
        for exact in (True, False) if start and inexact else (True,):
            network.exact = exact
            ours = network.forward(
                _pass(position[:, start:stop], prompt=not start), ids[:, :stop], every=not start
            )
            ours = ours if not start else ours[:, None]
            if not _close(ours[live], theirs[live], model.dtype):
                return False
    return True


def attends_alike(model: PreTrainedModel) -> bool:
    """Returns True if decode steps after a ragged prompt give the same logits through our attention."""
    if slides(model.config):
        return False
    ids, mask, position = _text(model)
    length, logits = ids.shape[1] - STEPS, []
    for attention in (None, DecodeAttention(model, mask, len(ids))):
        cache = {"past_key_values": DynamicCache(config=model.config), "use_cache": True}
        prompt = {"attention_mask": mask[:, :length], "position_ids": position[:, :length].clamp(min=0)}
        network = StockNetwork(model, length, {**prompt, **cache}, attention)
        network.forward(_pass(position[:, :length], prompt=True), ids[:, :length])
        steps = range(length, ids.shape[1])
        try:
            logits += [
                network.forward(_pass(position[:, at : at + 1], prompt=False), ids[:, : at + 1])
                for at in steps
            ]
        # The attention may need more than ours can do, and a forward may reject or drop our arguments.
        except Exception:  # noqa: BLE001
            return False
    return _close(torch.stack(logits[STEPS:]), torch.stack(logits[:STEPS]), model.dtype)


def _pass(position: Tensor, *, prompt: bool) -> Pass:
    """Returns a pass of tokens at `position` [B, w] that counts nowhere."""
    return Pass(
        Mode.DENSE, torch.full_like(position, -1).flatten(), position, prompt=prompt, decode=not prompt
    )


def _passes(length: int) -> Iterator[tuple[int, int]]:
    yield 0, length
    yield from ((at, at + 1) for at in range(length, length + STEPS))


def _text(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ids, mask and positions [2, P + STEPS] of random tokens; the second row is half as long.

    The global random state is left alone.
    """
    limit = getattr(model.config, "max_position_embeddings", None) or LONGEST
    room = LONGEST if model.device.type != "cpu" else int(CPU_WORK / model.num_parameters())
    columns = min(limit, LONGEST, max(SHORTEST, room))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, columns), generator=generator, device="cpu").to(
        model.device
    )
    first = torch.tensor([[0], [columns // 2]], device=model.device)
    position = torch.arange(columns, device=model.device) - first
    return ids, (position >= 0).long(), position.clamp(min=-1)


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    return bool((ours.double() - theirs.double()).norm() <= TOLERANCE[dtype] * theirs.double().norm())
