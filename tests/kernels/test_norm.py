"""Norms and rotary embedding: the kernels and the reference against the modules of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from kernels.compiled_here import COMPILED
from kernels.custom_ops import check_custom_op
from regrow.kernels.norm import cpu as norm_cpu
from regrow.kernels.norm import reference as norm_reference
from regrow.kernels.norm import triton as norm
from regrow.kernels.rotary import cpu as rotary_cpu
from regrow.kernels.rotary import reference as rotary_reference
from regrow.kernels.rotary import triton as rotary

EPS = 1e-6
NAN = float("nan")
FORMS = ["kernel", "reference", "cpu"]
EITHER = pytest.mark.parametrize(
    "form", [norm, norm_reference, pytest.param(norm_cpu, marks=COMPILED)], ids=FORMS
)
EITHER_TURN = pytest.mark.parametrize(
    "form", [rotary, rotary_reference, pytest.param(rotary_cpu, marks=COMPILED)], ids=FORMS
)
WHOLE_OR_HALF = pytest.mark.parametrize("precision", ["whole", "half"])
# The squares are added in another order, so a quotient may round to its neighbour: one unit, and one more for
# the multiplication by the weight.
UNIT = {torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def half(form: Any) -> torch.dtype:
    """Returns the 16-bit dtype to test an implementation with."""
    return torch.bfloat16 if form in (norm_cpu, rotary_cpu) else torch.float16


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm_of(weight: Tensor, kind: type[Module] = LlamaRMSNorm) -> Module:
    module = kind(len(weight), EPS).to(weight.dtype)
    module.weight.data.copy_(weight)
    return module


@EITHER
@WHOLE_OR_HALF
@pytest.mark.parametrize("width", [7, 256, 600])
@pytest.mark.parametrize("tokens", [1, 3])
def test_residual_and_norm_are_llamas(form: Any, tokens: int, width: int, precision: str) -> None:
    dtype = torch.float32 if precision == "whole" else half(form)
    x, residual, weight = (
        normal(tokens, width, dtype=dtype),
        normal(tokens, width, dtype=dtype, seed=1),
        normal(width, dtype=dtype, seed=2),
    )
    x[0], residual[0] = x[0] / 1000, residual[0] / 1000  # so small that eps counts
    total, out = x + residual, torch.full_like(x, NAN)
    form.add_rms_norm(x, residual, weight, EPS, out)
    assert torch.equal(residual, total)
    torch.testing.assert_close(out, norm_of(weight)(total).detach(), rtol=3 * UNIT[dtype], atol=0)


@EITHER
def test_rounds_before_the_product_with_the_weight(form: Any) -> None:
    """Half of the channels are 1 and the others 0, so the mean is exact.

    The quotient of the ones is about 1.41421, which no 16-bit number equals.
    """
    residual, weight = torch.tensor([[1.0, 0.0] * 32]).to(half(form)), normal(64, dtype=half(form))
    out = torch.empty_like(residual)
    form.add_rms_norm(None, residual, weight, EPS, out)
    assert torch.equal(out, norm_of(weight)(residual).detach())
    assert not torch.equal(out, (residual * weight.double() / (0.5 + EPS) ** 0.5).to(half(form)))


@EITHER
def test_the_norm_is_that_of_the_rounded_sum(form: Any) -> None:
    x, residual, weight = (normal(1, 64, dtype=half(form), seed=seed) for seed in range(3))
    total, unrounded, out = x + residual, x.float() + residual.float(), torch.empty_like(x)
    form.add_rms_norm(x, residual, weight[0], EPS, out)
    # With so few squares, no quotient is close enough to the midpoint of two numbers to round differently.
    assert torch.equal(out, norm_of(weight[0])(total).detach())
    assert not torch.equal(out, norm_of(weight[0].float())(unrounded).detach().to(half(form)))


@EITHER
def test_the_first_layer_has_nothing_to_add(form: Any) -> None:
    residual, weight = normal(2, 50), normal(50, seed=1)
    before, out = residual.clone(), torch.full((2, 50), NAN)
    form.add_rms_norm(None, residual, weight, EPS, out)
    assert torch.equal(residual, before)
    torch.testing.assert_close(out, norm_of(weight)(before).detach(), rtol=3 * UNIT[torch.float32], atol=0)


@EITHER
def test_tokens_may_be_parts_of_wider_rows(form: Any) -> None:
    wide, weight, x = torch.full((2, 3, 90), NAN), normal(40, seed=1), normal(6, 40)[::2]
    residual, out = wide[0, :, 9:49], wide[1].flatten()[:210].view(3, 70)[:, 1:41]
    residual.copy_(normal(3, 40, seed=2))
    total = x + residual
    form.add_rms_norm(x, residual, weight, EPS, out)
    assert torch.equal(residual, total)
    torch.testing.assert_close(out, norm_of(weight)(total).detach(), rtol=3 * UNIT[torch.float32], atol=0)
    assert wide.isnan().sum() == wide.numel() - 2 * 3 * 40


class Step:
    """A step of rows x width tokens, and the result of transformers for it."""

    def __init__(self, heads: int, kv_heads: int, head_width: int, dtype: torch.dtype, normed: bool) -> None:
        rows, width, capacity = 2, 3, 9
        self.split = heads, kv_heads, kv_heads
        self.qkv = normal(rows, width, sum(self.split) * head_width, dtype=dtype)
        self.weights = (
            (normal(head_width, dtype=dtype, seed=1), normal(head_width, dtype=dtype, seed=2))
            if normed
            else (None, None)
        )
        angles = torch.arange(40)[:, None] * 10000 ** (-torch.arange(0, head_width, 2) / head_width)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.position = torch.tensor([[-1, 0, 1], [31, 32, 39]])
        self.at = torch.tensor([[-1, 0, 1], [8, -1, 3]])
        self.caches = torch.full((2, rows, kv_heads, capacity, head_width), NAN, dtype=dtype)
        self.out = torch.full((rows, width, heads, head_width), NAN, dtype=dtype)

    def run(self, rope_cache: Callable[..., None]) -> None:
        rope_cache(
            self.qkv, *self.weights, EPS, self.cos, self.sin, self.position, self.at, *self.caches, self.out
        )

    def expected(self) -> tuple[Tensor, Tensor]:
        """Returns queries and caches, rotated in float32 by transformers."""
        query, key, value = (
            part.transpose(1, 2)
            for part in self.qkv.unflatten(-1, (sum(self.split), -1)).split(self.split, dim=2)
        )
        if self.weights[0] is not None:
            query, key = (
                norm_of(weight, Qwen3RMSNorm)(part).detach()
                for weight, part in zip(self.weights, (query, key), strict=True)
            )
        angles = (table[self.position.clamp(min=0)].repeat(1, 1, 2) for table in (self.cos, self.sin))
        query, key = apply_rotary_pos_emb(query.float(), key.float(), *angles)
        caches = torch.full(self.caches.shape, NAN)
        for row, token in (self.at >= 0).nonzero().tolist():
            caches[:, row, :, self.at[row, token]] = torch.stack(
                (key[row, :, token], value[row, :, token].float())
            )
        return query.transpose(1, 2), caches


@EITHER_TURN
@WHOLE_OR_HALF
@pytest.mark.parametrize("normed", [False, True], ids=["llama", "qwen3"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_width"), [(2, 2, 16), (7, 1, 80), (12, 4, 32)])
def test_queries_and_keys_are_turned_and_written(
    form: Any, heads: int, kv_heads: int, head_width: int, normed: bool, precision: str
) -> None:
    dtype = torch.float32 if precision == "whole" else half(form)
    step = Step(heads, kv_heads, head_width, dtype, normed)
    query, caches = step.expected()
    step.run(form.rope_cache)
    # A sum of two products may be smaller than either of them, and each has the relative error of the norm.
    tolerance = {"rtol": UNIT[dtype], "atol": (8 if normed else 1) * UNIT[dtype] * float(query.abs().max())}
    torch.testing.assert_close(step.out.float(), query, **tolerance)
    torch.testing.assert_close(step.caches[0].float(), caches[0], **tolerance, equal_nan=True)
    torch.testing.assert_close(step.caches[1].float(), caches[1], rtol=0, atol=0, equal_nan=True)


@EITHER_TURN
def test_heads_are_rounded_as_qwens_are(form: Any) -> None:
    """At position 0 nothing is rotated."""
    step = Step(2, 1, 16, half(form), True)
    step.position.zero_()
    query, caches = step.expected()
    step.run(form.rope_cache)
    assert torch.equal(step.out.float(), query)
    torch.testing.assert_close(step.caches.float(), caches, rtol=0, atol=0, equal_nan=True)


@EITHER_TURN
def test_heads_may_be_parts_of_wider_tensors(form: Any) -> None:
    """In the caches, keys and values lie side by side, positions before heads. Queries and out have gaps."""
    step = Step(4, 2, 16, torch.float32, True)
    query, caches = step.expected()
    step.qkv = torch.cat((step.qkv, torch.full_like(step.qkv, NAN)), dim=-1)[..., : step.qkv.shape[-1]]
    layout = torch.full((2, 9, 2, 2, 16), NAN)  # [B, S, 2, H_kv, d]
    step.caches = layout.permute(2, 0, 3, 1, 4)
    wide = torch.full((2, 3, 4, 30), NAN)
    step.out = wide[..., 4:20]
    step.run(form.rope_cache)
    torch.testing.assert_close(step.out, query)
    torch.testing.assert_close(step.caches, caches, equal_nan=True)
    assert wide.isnan().sum() == wide.numel() - query.numel()


def test_refuses_what_it_would_read_wrongly() -> None:
    step = Step(2, 1, 16, torch.float32, True)
    step.weights = (step.weights[0], None)
    with pytest.raises(ValueError, match="both or neither"):
        step.run(rotary.rope_cache)
    step = Step(2, 1, 16, torch.float32, False)
    step.at = step.at[:, :1].expand(2, 3)
    with pytest.raises(ValueError, match="contiguous"):
        step.run(rotary.rope_cache)
    with pytest.raises(ValueError, match="adjacent"):
        norm.add_rms_norm(None, normal(4, 3).t(), normal(4), EPS, torch.empty(3, 4))


@pytest.mark.parametrize("add", [False, True])
def test_the_norm_is_a_custom_operator(add: bool) -> None:
    check_custom_op(
        norm.add_rms_norm,
        (normal(2, 8) if add else None, normal(2, 8, seed=1), normal(8, seed=2), EPS, torch.zeros(2, 8)),
    )


@pytest.mark.parametrize("normed", [False, True], ids=["llama", "qwen3"])
def test_the_rotary_embedding_is_a_custom_operator(normed: bool) -> None:
    step = Step(2, 1, 16, torch.float32, normed)
    tables = step.cos, step.sin, step.position, step.at
    arguments = (
        step.qkv,
        *step.weights,
        EPS,
        *tables,
        *step.caches.nan_to_num(0).unbind(),
        step.out.nan_to_num(0),
    )
    check_custom_op(rotary.rope_cache, arguments)
