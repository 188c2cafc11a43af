"""The linear over kept inputs, in Triton's interpreter, against its definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.operands import framed, poisoned, random, summed, within
from kernels.test_triton_gather import case
from regrow.kernels.pruned_linear import reference
from regrow.kernels.pruned_linear.triton import masked_linear
from regrow.kernels.split_sums import Tile, sum_rows, workspace_shape

KEPT = {
    "all": lambda i: i >= 0,
    "none": lambda i: i < 0,
    "one": lambda i: i == 16,
    "some": lambda i: i * 7 % 5 < 2,
    "last": lambda i: i == 36,
}


def kept(which: str, inputs: int) -> Tensor:
    return KEPT[which](torch.arange(inputs))


def close(y: Tensor, x: Tensor, weight_t: Tensor, keep: Tensor, bias: Tensor | None) -> None:
    x, weight_t, bias = x.double(), weight_t.double(), None if bias is None else bias.double()
    terms = reference.masked_linear(x.abs(), weight_t.abs(), keep, None if bias is None else bias.abs())
    within(y, reference.masked_linear(x, weight_t, keep, bias), summed(terms, int(keep.sum()) + 1))


def run(x: Tensor, weight_t: Tensor, keep: Tensor, bias: Tensor | None, splits: int = 3) -> Tensor:
    """Blocks of 16, so that small operands have several. Dropped inputs are NaN, in x and in the weight."""
    rows, width = len(x), weight_t.shape[1]
    stored, given, out = framed(weight_t), framed(x), framed(poisoned(rows, width, dtype=x.dtype))
    stored.inner[~keep], given.inner[:, ~keep] = float("nan"), float("nan")
    workspace, tile = poisoned(splits, rows, width), Tile(1 if rows == 1 else max(16, 1 << (rows - 1).bit_length()), 16, 16, 2)
    sum_rows("masked_linear", given.inner, stored.inner, keep, bias, workspace, out.inner, indexed=False, tile=tile)
    assert out.frame_is_untouched()
    total = torch.zeros(rows, width)
    for partial in workspace:  # in this order, bit for bit
        total = total + partial
    assert torch.equal(out.inner, (total if bias is None else total + bias.float()).to(x.dtype)) or x.dtype == torch.bfloat16
    return out.inner


@case
def test_equals_the_reference(rows: int, dtype: torch.dtype) -> None:
    """Across block borders: 37 inputs in steps of 16, 21 outputs in blocks of 16."""
    x, weight_t, keep = random(0, rows, 37, dtype=dtype), random(1, 37, 21, dtype=dtype), kept("some", 37)
    close(run(x, weight_t, keep, None), x, weight_t, keep, None)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("which", KEPT)
@pytest.mark.parametrize("rows", [1, 3])
def test_keeps_all_none_one_or_some(rows: int, which: str, biased: bool) -> None:
    x, weight_t, keep, bias = random(0, rows, 37), random(1, 37, 21), kept(which, 37), random(2, 21) if biased else None
    for splits in (1, 2, 4):
        close(run(x, weight_t, keep, bias, splits), x, weight_t, keep, bias)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("inputs", "width"), [(1, 1), (16, 257), (130, 16)])
def test_takes_any_size(inputs: int, width: int, rows: int) -> None:
    x, weight_t, keep, bias = random(0, rows, inputs), random(1, inputs, width), kept("some", inputs), random(2, width)
    workspace, out = poisoned(*workspace_shape(rows, inputs, width)), poisoned(rows, width)
    masked_linear(x, weight_t, keep, bias, workspace, out)
    close(out, x, weight_t, keep, bias)


def operands(rows: int = 2) -> tuple[Tensor, ...]:
    shape = workspace_shape(rows, 70, 24)
    return random(0, rows, 70), random(1, 70, 24), kept("some", 70), random(2, 24), poisoned(*shape), poisoned(rows, 24)


@pytest.mark.parametrize("rows", [1, 3])
def test_two_runs_agree_bit_for_bit(rows: int) -> None:
    arguments = operands(rows)
    masked_linear(*arguments)
    first = arguments[-1].clone()
    arguments[-1].fill_(float("nan"))
    masked_linear(*arguments)
    assert torch.equal(arguments[-1], first)


def test_registered_as_it_behaves() -> None:
    torch.library.opcheck(masked_linear, operands())


def test_traces_into_one_graph() -> None:
    def linear(x: Tensor, weight_t: Tensor, keep: Tensor) -> Tensor:
        out, workspace = x.new_empty(2, 24), x.new_empty(workspace_shape(2, 70, 24))
        torch.ops.regrow.masked_linear(x, weight_t, keep, None, workspace, out)
        return out

    arguments = operands()[:3]
    assert torch.equal(torch.compile(linear, fullgraph=True, backend="aot_eager")(*arguments), linear(*arguments))


@pytest.mark.parametrize(("place", "value", "message"), [(2, torch.ones(70), "keep is bool"), (1, random(1, 69, 24), "keep is \\[69\\]")])
def test_refuses(place: int, value: Tensor, message: str) -> None:
    arguments = list(operands())
    arguments[place] = value
    with pytest.raises(AssertionError, match=message):
        masked_linear(*arguments)
