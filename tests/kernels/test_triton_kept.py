"""Inputs gathered on the device, and the masked linear layer over them, against the definition in float64.

The kernels run in Triton's interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.custom_ops import check_custom_op
from kernels.operands import framed, poisoned, random, summed, within
from kernels.test_triton_gather import case
from regrow.kernels.pruned_linear import reference
from regrow.kernels.pruned_linear import triton as pruned_linear
from regrow.kernels.pruned_linear.triton import gather_inputs, gather_workspace, kept_linear
from regrow.kernels.split_sums import Tile, blocks, sum_rows, workspace_shape

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


@dataclass(frozen=True)
class Gathered:
    kept: Tensor  # [T, room]
    index: Tensor
    count: Tensor


def beyond(inputs: int) -> int:
    """Returns an index that must not be followed: it points to a row of NaN below the weight."""
    return inputs + 5


def counts(inputs: int) -> Tensor:
    return torch.zeros(gather_workspace(inputs), dtype=torch.int32)


def gather(x: Tensor, keep: Tensor, more: int = 0) -> Gathered:
    """Runs `gather_inputs`, with NaN for dropped inputs of x and for all outputs."""
    given, room = framed(x), blocks(x.shape[1], 16) * 16 + more
    given.inner[:, ~keep] = float("nan")
    into = framed(poisoned(len(x), room, dtype=x.dtype))
    index, count = (
        torch.full((room,), beyond(inputs := x.shape[1]), dtype=torch.int32),
        torch.full((1,), inputs, dtype=torch.int32),
    )
    gather_inputs(given.inner, keep, into.inner, index, count, counts(inputs))
    assert into.frame_is_untouched()
    return Gathered(into.inner, index, count)


@pytest.fixture(params=["as it is", "small"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small":  # so that small operands have several blocks
        for name, value in {"ROWS": 2, "INPUTS": 16}.items():
            monkeypatch.setattr(pruned_linear, name, value)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("which", KEPT)
@pytest.mark.parametrize(("tokens", "inputs"), [(1, 37), (5, 37), (3, 64), (1, 600), (70, 17)])
def test_inputs_kept_lie_side_by_side_in_their_order(tokens: int, inputs: int, which: str) -> None:
    x, keep = random(0, tokens, inputs), kept(which, inputs)
    found, count = gather(x, keep), int(keep.sum())
    filled = blocks(count, 16) * 16
    assert found.count.tolist() == [count]
    assert found.index[:count].tolist() == keep.nonzero().flatten().tolist()
    assert torch.equal(found.kept[:, :count], x[:, keep])
    assert not found.kept[:, count:filled].any()
    assert found.kept[:, filled:].isnan().all()  # left as it was
    assert (found.index[count:] == beyond(inputs)).all()


def run(x: Tensor, weight_t: Tensor, keep: Tensor, bias: Tensor | None, splits: int = 3) -> Tensor:
    """Runs and checks the layer with blocks of 16 outputs and of 16 or 32 inputs, which are several blocks.

    Dropped rows of the weight are NaN.
    """
    rows, width, found = len(x), weight_t.shape[1], gather(x, keep)
    stored, out = framed(weight_t), framed(poisoned(rows, width, dtype=x.dtype))
    stored.inner[~keep] = float("nan")
    padded, results = max(16, 1 << (rows - 1).bit_length()), []
    for terms in (16, 32):
        workspace = poisoned(splits, rows, width)
        sum_rows(
            "kept_linear", found.kept, stored.inner, found.index, bias, workspace, out.inner,
            count=found.count, tile=Tile(padded, terms, 16, 2),
        )  # fmt: skip
        assert out.frame_is_untouched()
        assert not workspace.isnan().any()
        total = torch.zeros(rows, width)
        for partial in workspace:  # in this order, bit for bit
            total = total + partial
        assert torch.equal(out.inner, (total if bias is None else total + bias.float()).to(x.dtype))
        results.append(out.inner.clone())
        close(out.inner, x, weight_t, keep, bias)
    return results[0]


@case
def test_equals_the_reference(rows: int, dtype: torch.dtype) -> None:
    """Sizes cross block borders: up to 37 inputs in steps of 16, 21 outputs in blocks of 16."""
    x, weight_t = random(0, rows, 37, dtype=dtype), random(1, 37, 21, dtype=dtype)
    for which in ("some", "all"):
        run(x, weight_t, kept(which, 37), None)


@pytest.mark.parametrize("which", KEPT)
@pytest.mark.parametrize(("rows", "biased"), [(1, True), (3, False)])
def test_keeps_all_none_one_or_some(rows: int, which: str, biased: bool) -> None:
    """Uses up to as many splits as the inputs allow, and more, some of which are empty."""
    x, weight_t, keep, bias = (
        random(0, rows, 150),
        random(1, 150, 21),
        kept(which, 150),
        random(2, 21) if biased else None,
    )
    for splits in (1, 2, 5, 12):
        run(x, weight_t, keep, bias, splits)


def test_every_split_has_its_share() -> None:
    """Half of 200 inputs, all of them 1, are kept.

    A split's sum is the number of its inputs, which is a multiple of 16 for all but the last.
    """
    keep = torch.arange(200) % 2 == 0
    found = gather(torch.ones(1, 200), keep)
    workspace, out = poisoned(3, 1, 4), poisoned(1, 4)
    sum_rows(
        "kept_linear", found.kept, torch.ones(200, 4), found.index, None, workspace, out, count=found.count
    )
    assert workspace[:, 0, 0].tolist() == [48, 48, 4]
    assert out.tolist() == [[100] * 4]


@pytest.mark.parametrize("operand", ["x", "the weight"])
@pytest.mark.parametrize("terms", [16, 32, 64])
@pytest.mark.parametrize("place", [0, 47, 48, 95, 96, 99])
def test_an_infinity_counts_in_its_own_split_alone(place: int, terms: int, operand: str) -> None:
    """An infinity beyond the end of a split must not be multiplied by zero there, which would give NaN.

    The splits of 100 kept inputs end at 48 and 96, inside a step of 32 or 64.
    """
    keep, x, weight_t = torch.arange(200) % 2 == 0, random(0, 2, 200), random(1, 200, 21)
    x[0, ~keep], weight_t[~keep] = torch.inf, torch.inf
    column, row = x[:1, 2 * place], weight_t[2 * place]
    (column if operand == "x" else row).fill_(torch.inf)
    found, workspace, out = gather(x, keep), poisoned(3, 2, 21), poisoned(2, 21)
    sum_rows(
        "kept_linear", found.kept, weight_t, found.index, None, workspace, out,
        count=found.count, tile=Tile(16, terms, 16, 2),
    )  # fmt: skip
    assert torch.equal(out[0], column * row)
    assert [split for split in range(3) if workspace[split, 0].isinf().any()] == [place // 48]
    assert torch.equal(out[1].isfinite(), (x[1, 2 * place] * row).isfinite())


@pytest.mark.parametrize(("inputs", "width"), [(3, 5), (37, 1), (131, 129)])
def test_one_row_lies_anywhere(inputs: int, width: int) -> None:
    """Sizes and strides of x and of the weight are odd."""
    weight_t, x, keep = random(1, inputs, width), random(0, 1, inputs), kept("some", inputs)
    stored, given, out = framed(weight_t), framed(x), framed(poisoned(1, width))
    room = blocks(inputs, 16) * 16
    into, index = framed(poisoned(1, room)), torch.full((room,), beyond(inputs), dtype=torch.int32)
    count = torch.zeros(1, dtype=torch.int32)
    gather_inputs(given.inner, keep, into.inner, index, count, counts(inputs))
    kept_linear(
        into.inner, stored.inner, index, count, None, poisoned(*workspace_shape(1, inputs, width)), out.inner
    )
    assert out.frame_is_untouched()
    close(out.inner, x, weight_t, keep, None)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("inputs", "width"), [(1, 1), (16, 257), (130, 16)])
def test_takes_any_size(inputs: int, width: int, rows: int) -> None:
    x, weight_t, keep, bias = (
        random(0, rows, inputs),
        random(1, inputs, width),
        kept("some", inputs),
        random(2, width),
    )
    found, out = gather(x, keep), poisoned(rows, width)
    kept_linear(
        found.kept,
        weight_t,
        found.index,
        found.count,
        bias,
        poisoned(*workspace_shape(rows, inputs, width)),
        out,
    )
    close(out, x, weight_t, keep, bias)


@pytest.mark.parametrize("rows", [1, 3])
def test_two_runs_agree_bit_for_bit(rows: int) -> None:
    x, weight_t, keep = random(0, rows, 150), random(1, 150, 21), kept("some", 150)
    assert torch.equal(run(x, weight_t, keep, None), run(x, weight_t, keep, None))


def operands() -> tuple[Tensor, ...]:
    index, count = torch.zeros(48, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    return random(0, 2, 37), kept("some", 37), torch.zeros(2, 48), index, count, counts(37)


def test_gathering_is_a_custom_operator() -> None:
    check_custom_op(gather_inputs, operands())


def test_the_linear_is_a_custom_operator() -> None:
    _, _, into, index, count, _ = given = operands()
    gather_inputs(*given)
    workspace = torch.zeros(workspace_shape(2, 37, 24))
    check_custom_op(
        kept_linear, (into, random(1, 37, 24), index, count, random(2, 24), workspace, torch.zeros(2, 24))
    )


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, random(0, 37, 2).t(), "adjacent"),
        (1, torch.ones(36, dtype=torch.bool), "keep is"),
        (1, torch.ones(37, dtype=torch.int32), "keep is"),
        (1, torch.ones(74, dtype=torch.bool)[::2], "keep is"),
        (2, torch.zeros(2, 37), "filled up"),
        (3, torch.zeros(37, dtype=torch.int32), "filled up"),
        (3, torch.zeros(48, dtype=torch.int64), "int32"),
        (4, torch.zeros(1, dtype=torch.int64), "int32"),
        (5, torch.zeros(3, dtype=torch.int32), "counts is"),
        (5, torch.zeros(2), "int32"),
    ],
)
def test_refuses(place: int, value: Tensor, message: str) -> None:
    arguments = list(operands())
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        gather_inputs(*arguments)


WRONG = {
    "index is int32": {2: torch.zeros(48, dtype=torch.int64)},
    "x has 48 inputs": {2: torch.zeros(37, dtype=torch.int32)},
    "the count is int32": {3: torch.zeros(1, dtype=torch.int64)},
    "bias is": {4: random(0, 23)},
    "out is": {6: poisoned(2, 25)},
    "the workspace is": {5: poisoned(1, 3, 24)},
}


@pytest.mark.parametrize("message", WRONG)
def test_the_linear_refuses(message: str) -> None:
    _, _, into, index, count, _ = given = operands()
    gather_inputs(*given)
    workspace = torch.zeros(workspace_shape(2, 37, 24))
    arguments = [into, random(1, 37, 24), index, count, random(2, 24), workspace, torch.zeros(2, 24)]
    for place, value in WRONG[message].items():
        arguments[place] = value
    with pytest.raises(AssertionError, match=message):
        kept_linear(*arguments)
