"""What a copy of the model with weights of 4 bits drafts, plain and with a mask."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import regrow
from families import build
from lossless_cases import prompts, settings_of
from regrow.decoding.drafts.four_bit import FourBit
from regrow.decoding.drafts.masked import Masked
from regrow.decoding.lossless import LosslessLoop
from regrow.kernels import Codes, QuantizedFFN

GROUP, LAYERS = 16, range(2)


@dataclass
class Seen:
    """One check: the text before the drafts, the drafts that there is room for, and the mask by then."""

    text: Tensor  # [B, columns]
    drafts: Tensor  # [B, w]
    index: Tensor | None  # [L, k]


@contextmanager
def watched() -> Iterator[list[Seen]]:
    """Record all checks of rows of the same length."""
    seen: list[Seen] = []
    keep = LosslessLoop._keep_apart

    def kept(loop: LosslessLoop, drafts: Tensor, logits: Tensor) -> Tensor:
        batch, index = loop._batch, loop._session.pruner.memory.index
        end = batch.prompt_length + int(batch.lengths[0])
        useful = drafts[:, : int(batch.room.max())]
        seen.append(Seen(batch.ids[:, :end].clone(), useful, None if index is None else index.clone()))
        return keep(loop, drafts, logits)

    with patch.object(LosslessLoop, "_keep_apart", kept):
        yield seen


@torch.no_grad()
def rounded(model: Any, ffns: Collection[int]) -> Any:
    """Round the linear layers of a model as its copy does: those of FFNs in the layers `ffns` only."""
    stored = {model.model.layers[layer].mlp for layer in range(len(model.model.layers)) if layer not in ffns}
    kept = {linear for mlp in stored for linear in mlp.modules()}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module not in kept:
            bits = 8 if name == "lm_head" else 4
            module.weight.data = Codes.of(module.weight, bits, GROUP).expanded(module.weight.dtype)
    return model


@torch.no_grad()
def assert_drafted(seen: Seen, model: Any, drafter: Any, mask: Tensor) -> None:
    """The drafts are what `drafter` continues with, from the keys and values that the model has written.

    `mask` [B, P] is that of the prompt.
    """
    more = seen.text.shape[1] - mask.shape[1]
    mask = torch.cat([mask, mask.new_ones(len(mask), more)], dim=1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    text = {"attention_mask": mask[:, :-1], "position_ids": position[:, :-1]}
    cache = model(seen.text[:, :-1], **text, use_cache=True).past_key_values
    token = seen.text[:, -1:]
    for drafted in seen.drafts.unbind(dim=1):
        place = mask.sum(1, keepdim=True) - 1
        logits = drafter(token, attention_mask=mask, position_ids=place, past_key_values=cache).logits
        assert torch.equal(logits[:, -1].argmax(-1), drafted)
        token, mask = drafted[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)


def test_the_copy_drafts_what_a_model_with_rounded_weights_says() -> None:
    """In float64, so that no tie can be broken otherwise."""
    model, batch = build("qwen2", torch.float64), prompts(3, 5)
    other = rounded(build("qwen2", torch.float64), LAYERS)
    with regrow.prune(model, "dense"), regrow.prune(other, "dense"):
        assert not torch.equal(*(one.generate(**settings_of(batch)) for one in (model, other)))
        with watched() as checks:
            model.generate(**settings_of(batch), lossless=regrow.Lossless(FourBit(GROUP), 5))
    assert_drafted(checks[0], model, other, batch["attention_mask"])


@dataclass
class Kept:
    """A rounded FFN that takes its neurons through an index, as on a GPU."""

    ffn: QuantizedFFN
    keep: int
    index: Tensor = field(default_factory=lambda: torch.empty(0))

    def load(self, index: Tensor) -> int:
        assert len(index) == self.keep
        self.index = index.clone()
        return 0

    def __call__(self, x: Tensor) -> Tensor:
        hidden = self.ffn._act(self.ffn._gate(x)) * self.ffn._up(x)
        kept = torch.zeros(hidden.shape[-1], dtype=hidden.dtype).index_fill(0, self.index, 1)
        return self.ffn._down(hidden * kept)


@pytest.mark.parametrize("skipped", [(), (0,)])
@pytest.mark.parametrize("through_an_index", [False, True])
def test_the_masked_copy_drafts_with_the_latest_mask(
    through_an_index: bool, skipped: tuple[int, ...]
) -> None:
    """Kept neurons have their own weights, or rounded ones if the kernels take rows through an index.

    Layers that the method skips have rounded weights.
    """
    model, batch = build("qwen2", torch.float64), prompts(1, 5)
    keeping = Kept if through_an_index else QuantizedFFN.keeping
    how = regrow.Lossless(Masked(GROUP), 3)
    with (
        regrow.prune(model, regrow.BatchwiseAdaptive(init_steps=0), skip_layers=skipped) as session,
        patch.object(QuantizedFFN, "keeping", lambda ffn, keep: keeping(ffn, keep)),
    ):
        dense = regrow.generate(build("qwen2", torch.float64), **settings_of(batch)).sequences
        for _ in range(2):
            with watched() as checks:
                assert torch.equal(model.generate(**settings_of(batch), lossless=how), dense)
            assert session.report().updates > 2
            masks: list[Tensor] = []
            for seen in checks:
                other = rounded(build("qwen2", torch.float64), LAYERS if through_an_index else skipped)
                assert seen.index is not None
                masks.append(seen.index)
                pruned = [layer for layer in LAYERS if layer not in skipped]
                for layer, index in zip(pruned, seen.index, strict=True):
                    down = other.model.layers[layer].mlp.down_proj
                    dropped = torch.ones(down.in_features, dtype=torch.bool)
                    down.weight.data[:, dropped.index_fill(0, index, False)] = 0
                assert_drafted(seen, model, other, batch["attention_mask"])
            assert not all(torch.equal(masks[0], mask) for mask in masks)


def test_a_method_without_an_index_drafts_on_the_copy_as_it_does_on_the_model() -> None:
    """TEAL drops inputs of every linear layer; those of attention are the copy's and dense."""
    model, batch = build("llama"), prompts(2, 1)
    dense = regrow.generate(model, **settings_of(batch)).sequences
    with regrow.prune(model, regrow.WINA(selection="topk")) as session:
        ours = model.generate(**settings_of(batch), lossless=regrow.Lossless(Masked(8), 3))
        assert torch.equal(ours, dense)
        assert session.report().drafts_kept > 0


def test_the_copy_is_kept_until_the_weights_change() -> None:
    model, batch = build("llama"), prompts(2, 1)
    made: list[int] = []
    how = regrow.Lossless(FourBit(8), 2)

    def rounding(done: int, layers: int) -> None:
        made.append(done)
        assert layers == len(model.model.layers)

    with regrow.prune(model, "dense"):
        for _ in range(2):
            model.generate(**settings_of(batch), lossless=how, rounding=rounding)
        assert made == list(range(1, len(model.model.layers) + 1))
        model.model.layers[0].mlp.up_proj.weight.data.mul_(-1)  # leaves no other trace than its values
        dense = model.generate(**settings_of(batch))
        assert torch.equal(model.generate(**settings_of(batch), lossless=how, rounding=rounding), dense)
        assert len(made) == 2 * len(model.model.layers)
        model.generate(**settings_of(batch), lossless=regrow.Lossless(FourBit(16), 2), rounding=rounding)
        assert len(made) == 3 * len(model.model.layers)
