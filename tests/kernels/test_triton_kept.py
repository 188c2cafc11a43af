"""Inputs gathered on the device, and the linear over them, in Triton's interpreter, against the definition in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.custom_ops import check_custom_op
from kernels.operands import framed, poisoned, random
from kernels.test_triton_gather import case
from kernels.test_triton_masked import KEPT, close, kept
from regrow.kernels.pruned_linear import triton as pruned_linear
from regrow.kernels.pruned_linear.triton import gather_inputs, kept_linear
from regrow.kernels.split_sums import Tile, blocks, sum_rows, workspace_shape


@dataclass(frozen=True)
class Gathered:
    kept: Tensor  # [T, room]
    index: Tensor
    count: Tensor


def beyond(inputs: int) -> int:
    """An index that nobody may follow: of a row in the frame below the weight."""
    return inputs + 5


def gather(x: Tensor, keep: Tensor, more: int = 0) -> Gathered:
    """Dropped inputs of x are NaN, and so is all that is to be written."""
    given, room = framed(x), blocks(x.shape[1], 16) * 16 + more
    given.inner[:, ~keep] = float("nan")
    into = framed(poisoned(len(x), room, dtype=x.dtype))
    index, count = torch.full((room,), beyond(inputs := x.shape[1]), dtype=torch.int32), torch.full((1,), inputs, dtype=torch.int32)
    gather_inputs(given.inner, keep, into.inner, index, count)
    assert into.frame_is_untouched()
    return Gathered(into.inner, index, count)


@pytest.fixture(params=["as it is", "small"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small":  # so that small operands have several of each
        for name, value in {"ROWS": 2, "INPUTS": 16, "FLAGS": 16}.items():
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
    """Blocks of 16 outputs, and of 16 or 32 inputs, so that small operands have several. Dropped rows of the weight are NaN."""
    rows, width, found = len(x), weight_t.shape[1], gather(x, keep)
    stored, out = framed(weight_t), framed(poisoned(rows, width, dtype=x.dtype))
    stored.inner[~keep] = float("nan")
    padded, results = 1 if rows == 1 else max(16, 1 << (rows - 1).bit_length()), []
    for terms in (16, 32):
        workspace = poisoned(splits, rows, width)
        sum_rows(
            "kept_linear", found.kept, stored.inner, found.index, bias, workspace, out.inner,
            indexed=True, count=found.count, tile=Tile(padded, terms, 16, 2),
        )  # fmt: skip
        assert out.frame_is_untouched()
        assert not workspace.isnan().any()
        results.append(out.inner.clone())
        close(out.inner, x, weight_t, keep, bias)
    return results[0]


@case
def test_equals_the_reference(rows: int, dtype: torch.dtype) -> None:
    run(random(0, rows, 37, dtype=dtype), random(1, 37, 21, dtype=dtype), kept("some", 37), None)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("which", KEPT)
@pytest.mark.parametrize("rows", [1, 3])
def test_keeps_all_none_one_or_some(rows: int, which: str, biased: bool) -> None:
    """In as many splits as inputs allow, and in more, of which some have nothing to do."""
    x, weight_t, keep, bias = random(0, rows, 150), random(1, 150, 21), kept(which, 150), random(2, 21) if biased else None
    for splits in (1, 2, 5, 12):
        run(x, weight_t, keep, bias, splits)


def test_every_split_has_its_share() -> None:
    """Of 100 inputs of one each, kept by halves: sums of whole numbers, of as many kept inputs as there are in a share of 16."""
    keep = torch.arange(200) % 2 == 0
    found = gather(torch.ones(1, 200), keep)
    workspace, out = poisoned(3, 1, 4), poisoned(1, 4)
    sum_rows("kept_linear", found.kept, torch.ones(200, 4), found.index, None, workspace, out, indexed=True, count=found.count)
    assert workspace[:, 0, 0].tolist() == [48, 48, 4]
    assert out.tolist() == [[100] * 4]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("inputs", "width"), [(1, 1), (16, 257), (130, 16)])
def test_takes_any_size(inputs: int, width: int, rows: int) -> None:
    x, weight_t, keep, bias = random(0, rows, inputs), random(1, inputs, width), kept("some", inputs), random(2, width)
    found, out = gather(x, keep), poisoned(rows, width)
    kept_linear(found.kept, weight_t, found.index, found.count, bias, poisoned(*workspace_shape(rows, inputs, width)), out)
    close(out, x, weight_t, keep, bias)


@pytest.mark.parametrize("rows", [1, 3])
def test_two_runs_agree_bit_for_bit(rows: int) -> None:
    x, weight_t, keep = random(0, rows, 150), random(1, 150, 21), kept("some", 150)
    assert torch.equal(run(x, weight_t, keep, None), run(x, weight_t, keep, None))


def operands() -> tuple[Tensor, ...]:
    index, count = torch.zeros(48, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    return random(0, 2, 37), kept("some", 37), torch.zeros(2, 48), index, count


def test_gathering_is_a_custom_operator() -> None:
    check_custom_op(gather_inputs, operands())


def test_the_linear_is_a_custom_operator() -> None:
    x, keep, into, index, count = operands()
    gather_inputs(x, keep, into, index, count)
    workspace = torch.zeros(workspace_shape(2, 37, 24))
    check_custom_op(kept_linear, (into, random(1, 37, 24), index, count, random(2, 24), workspace, torch.zeros(2, 24)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, random(0, 37, 2).t(), "adjacent"),
        (1, torch.ones(36, dtype=torch.bool), "filled up"),
        (2, torch.zeros(2, 37), "filled up"),
        (3, torch.zeros(37, dtype=torch.int32), "filled up"),
        (3, torch.zeros(48, dtype=torch.int64), "int32"),
        (4, torch.zeros(1, dtype=torch.int64), "int32"),
    ],
)
def test_refuses(place: int, value: Tensor, message: str) -> None:
    arguments = list(operands())
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        gather_inputs(*arguments)
