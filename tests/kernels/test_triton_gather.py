"""The sparse FFN through an index, in Triton's interpreter, against its definition in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.operands import framed, poisoned, random, shuffled, summed, within
from kernels.test_sparse_ffn import ACTS
from regrow.core import FFNWeights
from regrow.kernels.pruned_ffn import reference
from regrow.kernels.pruned_ffn.triton import ACTIVATIONS, down_gather, gated_gather, gated_tile, launch_gated
from regrow.kernels.split_sums import (
    H100_SHARED,
    LARGEST_ROWS,
    RESIDENT,
    Tile,
    blocks,
    partial_tile,
    sum_rows,
    workspace_shape,
)

ROWS = 1, 2, 3, 7, 16, 17, 33, 64
# The interpreter's bfloat16 matmul is wrong, so only the kernel without tensor cores is run in bfloat16. All
# kernels are compiled for bfloat16 ahead of time.
CASES = [(rows, dtype) for rows in ROWS for dtype in (torch.float32, torch.float16)]


def parametrized(cases: list[tuple[int, torch.dtype]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("rows", "dtype"), cases, ids=lambda value: str(value).removeprefix("torch.")
    )


case = parametrized(CASES)
ACT_SLOPE = 1.13  # the largest of the derivatives of ACTIVATIONS (gelu)


def small(rows: int, width: int, keep: int) -> Tile:
    """Returns blocks of 16, so that small operands have several blocks."""
    return gated_tile(rows, width, keep)[0]._replace(inputs=16, outputs=16)


def close(out: Tensor, x: Tensor, w: FFNWeights, index: Tensor) -> None:
    """Asserts that `out` holds the hidden activations: the sparse FFN without down."""
    x, gate, up, *biases = (
        None if t is None else t.double() for t in (x, w.gate[index], w.up[index], w.gate_bias, w.up_bias)
    )
    gate_bias, up_bias = (None if bias is None else bias[index] for bias in biases)
    identity = FFNWeights(gate, up, torch.eye(len(index), dtype=torch.float64), w.act, gate_bias, up_bias)
    want = reference.sparse_ffn(identity, torch.arange(len(index)), x)
    count = x.shape[1] + 1  # with the bias
    gate_error = summed(linear(x.abs(), gate.abs(), None if gate_bias is None else gate_bias.abs()), count)
    up_error = summed(linear(x.abs(), up.abs(), None if up_bias is None else up_bias.abs()), count)
    gated, raised = w.act(linear(x, gate, gate_bias)), linear(x, up, up_bias)
    # The activation itself: eight roundings of its argument, which an exponential turns into as many
    # roundings of its result times the argument.
    act_error = ACT_SLOPE * gate_error + 8 * torch.finfo(torch.float32).eps * (1 + gated.abs())
    within(out, want, act_error * (raised.abs() + up_error) + gated.abs() * up_error)


def weights(
    dtype: torch.dtype,
    neurons: int,
    width: int,
    act: str = "silu",
    biases: tuple[str, ...] = (),
    seed: int = 0,
) -> FFNWeights:
    gate, up = random(seed, neurons, width, dtype=dtype), random(seed + 1, neurons, width, dtype=dtype)
    bias = {
        name: random(seed + 2 + place, neurons, dtype=dtype)
        for place, name in enumerate(("gate", "up"))
        if name in biases
    }
    return FFNWeights(gate, up, torch.empty(0), ACTS[act], bias.get("gate"), bias.get("up"))


def run_gated(
    x: Tensor, w: FFNWeights, index: Tensor, act: str = "silu", sizes: tuple[Tile, int] | None = None
) -> Tensor:
    out = framed(poisoned(len(x), len(index), dtype=x.dtype))
    launch_gated(x, w.gate, w.up, index, w.gate_bias, w.up_bias, act, out.inner, sizes)
    assert out.frame_is_untouched()
    return out.inner


@parametrized([*CASES, (1, torch.bfloat16)])
def test_gated_equals_the_reference(rows: int, dtype: torch.dtype) -> None:
    """Sizes cross block borders: 23 neurons in shares of 9, padded to 16; 37 inputs in steps of 16.

    All other memory is NaN, including unselected rows.
    """
    index, w = shuffled(0, 40, 23), weights(dtype, 40, 37)
    unselected = torch.ones(40, dtype=torch.bool).index_fill_(0, index, False)
    gate, up, x = (framed(t).inner for t in (w.gate, w.up, random(9, rows, 37, dtype=dtype)))
    gate[unselected], up[unselected] = float("nan"), float("nan")
    close(
        run_gated(x, FFNWeights(gate, up, w.down, w.act), index, sizes=(small(rows, 37, 23), 9)), x, w, index
    )


@pytest.mark.parametrize("rows", [1, 3])
def test_columns_beyond_the_neurons_are_zeroed(rows: int) -> None:
    """Such columns are in the block of the last neuron, and in separate blocks. Biases are not zero there."""
    w, x, index = (
        weights(torch.float32, 40, 37, biases=("gate", "up")),
        random(9, rows, 37),
        shuffled(0, 40, 23),
    )
    out = framed(poisoned(rows, 48))
    launch_gated(x, w.gate, w.up, index, w.gate_bias, w.up_bias, "silu", out.inner, (small(rows, 37, 48), 9))
    assert out.frame_is_untouched()
    close(out.inner[:, :23], x, w, index)
    assert (out.inner[:, 23:] == 0).all()


@pytest.mark.parametrize("biases", [(), ("gate",), ("up",), ("gate", "up")], ids=" ".join)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 3])
def test_every_activation_and_bias(rows: int, act: str, biases: tuple[str, ...]) -> None:
    w, x, index = weights(torch.float32, 12, 20, act, biases), random(9, rows, 20), shuffled(0, 12, 5)
    close(run_gated(x, w, index, act), x, w, index)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("neurons", "width", "keep"), [(1, 1, 1), (7, 130, 1), (33, 16, 33), (40, 129, 17)])
def test_gated_takes_any_size(neurons: int, width: int, keep: int, rows: int) -> None:
    """Uses the default block sizes, and an int32 index."""
    w, x, index = weights(torch.float32, neurons, width), random(9, rows, width), shuffled(0, neurons, keep)
    out = poisoned(rows, keep)
    gated_gather(x, w.gate, w.up, index.int(), None, None, "silu", out)
    close(out, x, w, index)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 2])
def test_an_activation_alone(rows: int, act: str) -> None:
    """With a single input, the error of a sum does not hide that of the activation."""
    w = FFNWeights(torch.linspace(-6, 6, 33)[:, None], torch.ones(33, 1), torch.empty(0), ACTS[act])
    x, index = torch.ones(rows, 1), torch.arange(33)
    close(run_gated(x, w, index, act), x, w, index)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_gate_that_is_not_a_number_shows(act: str) -> None:
    w, index = weights(torch.float32, 4, 8), torch.tensor([1, 2])
    w.gate[2, 3] = float("nan")
    assert run_gated(random(9, 2, 8), w, index, act).isnan().tolist() == [[False, True]] * 2


# Down


def down_close(y: Tensor, h: Tensor, down_t: Tensor, index: Tensor, bias: Tensor | None) -> None:
    h, down_t, bias = h.double(), down_t[index].double(), None if bias is None else bias.double()
    want = linear(h, down_t.t(), bias)
    within(
        y,
        want,
        summed(linear(h.abs(), down_t.t().abs(), None if bias is None else bias.abs()), len(index) + 1),
    )


@case
@pytest.mark.parametrize("splits", [1, 3, 4])
def test_down_equals_the_reference(rows: int, dtype: torch.dtype, splits: int) -> None:
    """Sizes cross block borders: 37 neurons in steps of 16, so that a fourth split is empty; 21 outputs."""
    index, down_t, bias = (
        shuffled(0, 50, 37),
        random(1, 50, 21, dtype=dtype),
        random(2, 21, dtype=dtype) if splits == 3 else None,
    )
    stored, h, out = (
        framed(down_t),
        framed(random(3, rows, 37, dtype=dtype)),
        framed(poisoned(rows, 21, dtype=dtype)),
    )
    stored.inner[torch.ones(50, dtype=torch.bool).index_fill_(0, index, False)] = float("nan")
    workspace, tile = poisoned(splits, rows, 21), Tile(max(16, 1 << (rows - 1).bit_length()), 16, 16, 2)
    sum_rows("down_gather", h.inner, stored.inner, index, bias, workspace, out.inner, tile=tile)
    assert out.frame_is_untouched()
    down_close(out.inner, h.inner, down_t, index, bias)
    total = torch.zeros(rows, 21)
    for partial in workspace:  # in this order, bit for bit
        total = total + partial
    assert torch.equal(out.inner, (total if bias is None else total + bias.float()).to(dtype))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("neurons", "width", "keep"), [(1, 1, 1), (9, 257, 1), (70, 16, 65)])
def test_down_takes_any_size(neurons: int, width: int, keep: int, rows: int) -> None:
    index, down_t, h, bias = (
        shuffled(0, neurons, keep),
        random(1, neurons, width),
        random(3, rows, keep),
        random(2, width),
    )
    workspace, out = poisoned(*workspace_shape(rows, keep, width)), poisoned(rows, width)
    down_gather(h, down_t, index.int(), bias, workspace, out)
    down_close(out, h, down_t, index, bias)


@pytest.mark.parametrize(("width", "keep"), [(3, 1), (5, 67), (129, 131), (16, 15)])
def test_one_row_lies_anywhere(width: int, keep: int) -> None:
    """Sizes and strides are odd: x begins at an odd position of a longer row, and so do the weight's rows."""
    index, down_t = shuffled(0, 140, keep), random(1, 140, width)
    stored, h = framed(down_t).whole[1:141, 2 : width + 2], poisoned(3, 2 * keep + 7)[1:2, 5 : keep + 5]
    h.copy_(random(3, 1, keep))
    out = framed(poisoned(1, width))
    down_gather(h, stored, index, None, poisoned(*workspace_shape(1, keep, width)), out.inner)
    assert out.frame_is_untouched()
    down_close(out.inner, h, down_t, index, None)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("place", [0, 31, 32, 63, 64, 69])
def test_an_infinity_counts_in_its_own_split_alone(place: int, rows: int) -> None:
    """At both ends of every split, an infinity is never multiplied by the zero of a row that is not read."""
    index, down_t, h = shuffled(0, 80, 70), random(1, 80, 21), random(3, rows, 70)
    h[0, place] = torch.inf
    workspace, out = poisoned(3, rows, 21), poisoned(rows, 21)
    sum_rows("down_gather", h, down_t, index, None, workspace, out, tile=Tile(16, 32, 16, 2))
    assert torch.equal(out[0], torch.inf * down_t[index[place]].sign())
    assert [split for split in range(3) if workspace[split, 0].isinf().any()] == [place // 32]
    down_close(out[1:], h[1:], down_t, index, None)


def test_both_are_the_sparse_ffn() -> None:
    """Compares both kernels together with the reference: gate, up and down of one set of neurons."""
    index, x, down = shuffled(0, 20, 9), random(9, 2, 24), random(5, 24, 20)
    w = weights(torch.float32, 20, 24, biases=("gate", "up"))
    h, out, workspace = poisoned(2, 9), poisoned(2, 24), poisoned(*workspace_shape(2, 9, 24))
    gated_gather(x, w.gate, w.up, index, w.gate_bias, w.up_bias, "silu", h)
    down_gather(h, down.t().contiguous(), index, None, workspace, out)
    want = reference.sparse_ffn(FFNWeights(w.gate, w.up, down, w.act, w.gate_bias, w.up_bias), index, x)
    # Values are of order 100. The tests above check the sums more tightly.
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-3)


def test_offsets_are_64_bit(tmp_path: Path) -> None:
    """Neuron 3 lies more than 2^31 elements after neuron 0, in a sparse file.

    An offset that overflows 32 bits would read zeros.
    """
    stride = 2**31 // 3 + 32
    stored = torch.from_file(str(tmp_path / "weights"), shared=True, size=2**32 + 128, dtype=torch.float16)
    stored = stored.as_strided((4, 16), (stride, 1), 2**31)
    stored[3] = 1.0
    index, out, workspace = torch.tensor([3]), poisoned(2, 1, dtype=torch.float16), poisoned(1, 2, 16)
    gated_gather(torch.ones(2, 16, dtype=torch.float16), stored, stored, index, None, None, "relu", out)
    assert out.tolist() == [[256.0]] * 2
    y = poisoned(2, 16, dtype=torch.float16)
    down_gather(torch.ones(2, 1, dtype=torch.float16), stored, index, None, workspace, y)
    assert (y == 1).all()


# As operators


def operands(rows: int = 2) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    index, w = shuffled(0, 20, 9), weights(torch.float32, 20, 24, biases=("gate", "up"))
    gated = random(9, rows, 24), w.gate, w.up, index, w.gate_bias, w.up_bias, "silu", poisoned(rows, 9)
    down = (
        random(8, rows, 9),
        random(5, 20, 24),
        index,
        random(6, 24),
        poisoned(*workspace_shape(rows, 9, 24)),
        poisoned(rows, 24),
    )
    return gated, down


@pytest.mark.parametrize("rows", [1, 3])
def test_two_runs_agree_bit_for_bit(rows: int) -> None:
    for operator, arguments in zip((gated_gather, down_gather), operands(rows), strict=True):
        operator(*arguments)
        first = arguments[-1].clone()
        arguments[-1].fill_(float("nan"))
        operator(*arguments)
        assert torch.equal(arguments[-1], first)


@pytest.mark.parametrize("which", [0, 1], ids=["gated", "down"])
def test_registered_as_it_behaves(which: int) -> None:
    torch.library.opcheck((gated_gather, down_gather)[which], operands()[which])


def test_traces_into_one_graph() -> None:
    def ffn(x: Tensor, gate: Tensor, up: Tensor, down_t: Tensor, index: Tensor) -> Tensor:
        h, out, workspace = x.new_empty(2, 9), torch.empty_like(x), x.new_empty(workspace_shape(2, 9, 24))
        torch.ops.regrow.gated_gather(x, gate, up, index, None, None, "silu", h)
        torch.ops.regrow.down_gather(h, down_t, index, None, workspace, out)
        return out

    w, arguments = weights(torch.float32, 20, 24), (random(5, 20, 24), shuffled(0, 20, 9))
    compiled = torch.compile(ffn, fullgraph=True, backend="aot_eager")
    assert torch.equal(
        compiled(random(9, 2, 24), w.gate, w.up, *arguments), ffn(random(9, 2, 24), w.gate, w.up, *arguments)
    )


def test_a_new_selection_is_seen_at_the_same_address() -> None:
    gated, _ = operands()
    gated_gather(*gated)
    gated[3].copy_(shuffled(1, 20, 9))
    gated_gather(*gated)
    fresh = (*gated[:3], gated[3].clone(), *gated[4:7], poisoned(2, 9))
    gated_gather(*fresh)
    assert torch.equal(gated[-1], fresh[-1])


WRONG = {
    "rows, not 65": {0: random(0, 65, 24)},
    "is one of torch.float16": {0: random(0, 2, 24).double()},
    "up has the dtype of x": {2: random(0, 20, 24).half()},
    "gate and up are": {1: random(0, 20, 23)},
    "elements of a row of gate are contiguous": {1: random(0, 24, 20).t()},
    "index is int32 or int64": {3: torch.arange(9.0)},
    "biases are": {4: random(0, 21)},
    "act is one of silu": {6: "tanh"},
    "out is": {7: poisoned(2, 8)},
}


@pytest.mark.parametrize("message", WRONG)
def test_refuses(message: str) -> None:
    arguments = list(operands()[0])
    for place, value in WRONG[message].items():
        arguments[place] = value
    with pytest.raises(AssertionError, match=message):
        gated_gather(*arguments)


@pytest.mark.parametrize("shape", [(2, 2, 24), (1, 3, 24)])
def test_refuses_a_workspace_of_another_shape_or_dtype(shape: tuple[int, ...]) -> None:
    h, down_t, index, bias, _, out = operands()[1]
    with pytest.raises(AssertionError, match="the workspace is"):
        down_gather(
            h, down_t, index, bias, poisoned(*shape).double() if shape[1] == 2 else poisoned(*shape), out
        )


# Block sizes


@pytest.mark.parametrize("shared", [99 * 1024, 163 * 1024, H100_SHARED])
@pytest.mark.parametrize("rows", [1, 2, 16, 32, 33, 64])
def test_pipelines_fit_into_the_shared_memory_of_a_card(rows: int, shared: int) -> None:
    """Triton allocates one buffer fewer than stages, except with 64 rows.

    There, Hopper's tensor cores read the buffers directly.
    """
    for size in (2, 4):
        gated, partial = (
            gated_tile(rows, 3584, 9472, size, shared)[0],
            partial_tile(rows, 9472, 3584, size, shared),
        )
        for tile, stage in (
            (gated, size * gated.inputs * (gated.rows + 2 * gated.outputs)),
            (partial, size * partial.inputs * (partial.rows + partial.outputs)),
        ):
            assert tile.stages >= 1
            assert (tile.stages - (rows <= 32)) * stage <= shared


@pytest.mark.parametrize("rows", range(1, LARGEST_ROWS + 1))
def test_blocks_cover_and_run_at_once(rows: int) -> None:
    for keep, width in ((1, 1), (23, 37), (2432, 896), (9472, 3584), (7168, 4096), (14336, 8192)):
        tile, share = gated_tile(rows, width, keep)
        assert tile.rows >= rows
        assert share <= tile.outputs
        assert partial_tile(rows, keep, width).rows >= max(rows, 16)  # on matrix units, one row included
        assert blocks(keep, share) <= RESIDENT
        splits, *rest = workspace_shape(rows, keep, width)
        assert rest == [rows, width]
        assert splits * blocks(width, 128) <= RESIDENT
        assert (splits - 1) * 64 < keep  # none is empty by design
