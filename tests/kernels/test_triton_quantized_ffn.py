"""Down and whole FFNs over rounded weights, in Triton's interpreter, against their definition in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels.custom_ops import check_custom_op
from kernels.operands import framed, poisoned, random, shuffled, within
from kernels.quantized_operands import chosen, error_of, magnitudes, rounded
from kernels.test_sparse_ffn import ACTS
from regrow.kernels.quantized import reference
from regrow.kernels.quantized.codes import Codes
from regrow.kernels.quantized.gather import PackedFFN, QuantizedGatherFFN
from regrow.kernels.quantized.packed import PackedWeight
from regrow.kernels.quantized.triton import Block
from regrow.kernels.quantized.triton_down import down_workspace, launch_down, quantized_down
from spread import spread

ROWS = 1, 2, 8, 9, 16, 17, 64
DTYPES = torch.float32, torch.float16


def run(
    h: Tensor,
    down: Codes,
    index: Tensor | None = None,
    bias: Tensor | None = None,
    splits: int | None = None,
    sizes: Block | None = None,
) -> Tensor:
    packed, width = PackedWeight.of(down), down.codes.shape[1]
    shape = down_workspace(*h.shape, width)
    workspace = poisoned(splits or shape[0], *shape[1:])
    out = framed(poisoned(len(h), width, dtype=h.dtype))
    launch_down(h, packed.codes, packed.factors, packed.unit, index, bias, workspace, out.inner, sizes)
    assert out.frame_is_untouched()
    return out.inner


def close(y: Tensor, h: Tensor, down: Codes, bias: Tensor | None = None) -> None:
    """`down` holds the neurons of h alone. h times a scale is rounded to the dtype of h, once."""
    kind, wide, bias = torch.finfo(h.dtype), h.double(), None if bias is None else bias.double()
    want = wide @ down.expanded(torch.float64) + (0 if bias is None else bias)
    terms = wide.abs() @ magnitudes(down) + (0 if bias is None else bias.abs())
    scaled = wide.abs() @ replace(down, offset=torch.zeros_like(down.offset)).expanded(torch.float64)
    # Below the smallest normal number, the roundings do not shrink. h is multiplied by at most 1 there.
    least = 15 * kind.tiny * kind.eps * len(down.codes) / PackedWeight.of(down).unit
    within(y, want, error_of(terms, len(down.codes)) + kind.eps * scaled + least)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "splits"), spread(ROWS, [1, 3, 7]))
def test_equals_the_reference(splits: int, rows: int, dtype: torch.dtype) -> None:
    """150 of 170 neurons, so that steps and splits end anywhere; 300 outputs, which are 3 groups.

    What lies around h is NaN, and so are the scales of the other neurons.
    """
    index, down = shuffled(0, 170, 150), rounded(1, 170, 300)
    others = torch.ones(170, dtype=torch.bool).index_fill_(0, index, False)
    down.scale[others] = torch.nan
    bias = random(2, 300, dtype=dtype) if splits == 3 else None
    h = framed(random(3, rows, 150, dtype=dtype)).inner
    close(run(h, down, index, bias, splits), h, chosen(down, index), bias)


@pytest.mark.parametrize(("width", "rows"), spread([1, 64, 65, 128, 129, 385], [1, 9]))
@pytest.mark.parametrize("neurons", [1, 31, 128, 300])
def test_takes_any_size(neurons: int, width: int, rows: int) -> None:
    """With all neurons, in one step of a split and in several, and with some in an int32 index."""
    down, h = rounded(1, neurons, width), random(3, rows, neurons)
    for splits in (None, 1):
        close(run(h, down, splits=splits), h, down)
    index = shuffled(0, neurons, (neurons + 1) // 2).int()
    close(run(h[:, : len(index)], down, index), h[:, : len(index)], chosen(down, index))


@pytest.mark.parametrize(("scale", "size"), [(1e-9, 1e4), (1e-3, 1), (1e2, 1)])
def test_float16_loses_nothing_to_the_size_of_the_scales(scale: float, size: float) -> None:
    """float16 would round products of h with the first scale to a few digits. The results it can hold."""
    down, h = rounded(1, 100, 130, scale=scale), (size * random(3, 2, 100)).half()
    down.offset[:] = 0
    want = h.double() @ down.expanded(torch.float64)
    # The roundings of a hundred terms, and one of the result. None exceeds half an eps of the largest result.
    assert float((run(h, down) - want).abs().max() / want.abs().max()) < 2 * torch.finfo(torch.float16).eps


def test_neurons_without_scale_count_by_their_offsets() -> None:
    down, h = rounded(1, 100, 130), random(3, 2, 100)
    down.scale[:50] = 0
    close(run(h, down), h, down)
    down.scale[:], down.offset[:] = 0, 0
    assert (run(h, down) == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 127, 128, 199])
def test_what_is_not_finite_shows_in_its_own_row_alone(place: int, value: float) -> None:
    down, h = rounded(1, 200, 130), random(3, 3, 200)
    clean = run(h, down)
    h[1, place] = value
    y = run(h, down)
    assert not y[1].isfinite().any()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("rows", [1, 9])
def test_two_runs_agree_bit_for_bit(rows: int) -> None:
    down, h = rounded(1, 300, 300), random(3, rows, 300)
    assert torch.equal(run(h, down), run(h, down))


def test_splits_occupy_the_gpu_and_share_the_neurons() -> None:
    """At the size of Qwen2.5-7B, with all neurons and with half of them."""
    assert [down_workspace(rows, 18944, 3584)[0] for rows in (1, 8, 9, 16, 64)] == [18, 18, 9, 9, 2]
    assert down_workspace(1, 9472, 3584)[0] == 18
    assert down_workspace(1, 100, 3584)[0] == 1


def test_offsets_are_64_bit(tmp_path: Path) -> None:
    """The last neuron lies 2^31 bytes after the first, in a sparse file."""
    last = 2**25
    codes = torch.from_file(str(tmp_path / "codes"), shared=True, size=64 * (last + 1), dtype=torch.uint8)
    factors = torch.from_file(str(tmp_path / "factors"), shared=True, size=last + 1, dtype=torch.int32)
    codes, factors = codes.view(-1, 64), factors.view(-1, 1)
    codes[last], factors[last] = 0x21, 0x3F80  # ones and twos, with scale 1 and offset 0
    out, workspace = poisoned(1, 128), poisoned(1, 1, 128)
    quantized_down(torch.ones(1, 1), codes, factors, 1.0, torch.tensor([last]), None, workspace, out)
    assert out.tolist() == [[1.0] * 64 + [2.0] * 64]


# Whole FFNs

NEURONS, WIDTH, KEEP = 40, 140, 17


def codes(count: int = 3) -> list[Codes]:
    return [rounded(seed, NEURONS, WIDTH, scale=0.1) for seed in range(count)]


@pytest.mark.parametrize(("act", "biased"), spread(list(ACTS), [False, True]))
def test_an_ffn_of_any_number_of_rows(act: str, biased: bool) -> None:
    """Uses more rows than the kernels take at once, and an index that is replaced in place."""
    gate, up, down = codes()
    biases = (random(4, NEURONS), random(5, NEURONS), random(6, WIDTH)) if biased else (None, None, None)
    weights = PackedFFN.of(gate, up, down, act, *biases)
    order = shuffled(7, NEURONS, NEURONS)
    pruned = QuantizedGatherFFN(weights, None).keeping(KEEP)
    for some in (order[:KEEP].sort().values, order[-KEEP:].sort().values, None):
        ffn = QuantizedGatherFFN(weights, None) if some is None else pruned
        assert some is None or ffn.load(some) == 0
        for shape in ((1, 1), (70, 1), (2, 3)):
            x = random(8, *shape, WIDTH)
            wide = x.view(-1, WIDTH).double()
            doubled = (None if bias is None else bias.double() for bias in biases)
            want = reference.quantized_ffn(wide, gate, up, down, ACTS[act], some, *doubled).view(x.shape)
            # Sums of up to 140 terms, in float32: an error of 140 roundings of the largest result.
            assert float((ffn(x) - want).abs().max() / want.abs().max()) < 140 * 2**-23


def test_counts_its_bytes_and_forgets() -> None:
    weights = PackedFFN.of(*codes(), "silu")
    assert weights.nbytes == 3 * NEURONS * 2 * (64 + 4)
    assert QuantizedGatherFFN(weights, None).state_bytes == weights.nbytes
    ffn = QuantizedGatherFFN(weights, KEEP)
    assert ffn.state_bytes == weights.nbytes + 8 * 32  # the index is padded to a multiple of 16
    x = random(8, 2, WIDTH)
    fresh = ffn(x)
    ffn.load(torch.arange(KEEP))
    assert not torch.equal(ffn(x), fresh)
    ffn.forget()
    assert torch.equal(ffn(x), fresh)


def test_padding_is_not_computed() -> None:
    """The padding of the index is neuron 0, which is not retained here, and whose weights are large."""
    gate, up, down = codes()
    for one in (gate, up, down):
        one.offset[0] = 1e6
    index, x = torch.arange(1, KEEP + 1), random(8, 2, WIDTH)
    ffn = QuantizedGatherFFN(PackedFFN.of(gate, up, down, "silu"), KEEP)
    ffn.load(index)
    want = reference.quantized_ffn(x.double(), gate, up, down, ACTS["silu"], index)
    assert float((ffn(x) - want).abs().max() / want.abs().max()) < 140 * 2**-23


def test_refuses_weights_that_are_no_ffn() -> None:
    gate, up, down = codes()
    for wrong in (rounded(0, NEURONS, WIDTH, 8), rounded(0, NEURONS, WIDTH + 1)):
        with pytest.raises(ValueError, match="have 4 bits"):
            PackedFFN.of(gate, wrong, down, "silu")
    with pytest.raises(AssertionError, match="takes no index"):
        QuantizedGatherFFN(PackedFFN.of(gate, up, down, "silu"), None).load(torch.arange(3))


# As an operator


def operands() -> tuple[object, ...]:
    down = PackedWeight.of(rounded(1, 20, 140))
    workspace, out = torch.zeros(down_workspace(2, 9, 140)), torch.zeros(2, 140)
    h, index = random(3, 2, 9), shuffled(0, 20, 9)
    return h, down.codes, down.factors, down.unit, index, random(4, 140), workspace, out


def test_is_a_custom_operator() -> None:
    check_custom_op(quantized_down, operands())


WRONG = {
    "rows, not 65": {0: random(0, 65, 9)},
    r"codes are \[20, 128\]": {1: torch.zeros(20, 64, dtype=torch.uint8)},
    "factors are torch.int32": {2: torch.zeros(20, 2)},
    "9 neurons, but the index 8": {4: torch.arange(8)},
    "9 neurons, but the weight 20": {4: None},
    "index is int32 or int64": {4: torch.arange(9.0)},
    "bias is": {5: random(0, 141)},
    "the workspace is": {6: poisoned(1, 3, 140)},
    "the workspace is float32": {6: poisoned(1, 2, 140, dtype=torch.float16)},
    "out is": {7: poisoned(3, 140)},
}


@pytest.mark.parametrize("message", WRONG)
def test_refuses(message: str) -> None:
    arguments = list(operands())
    for place, value in WRONG[message].items():
        arguments[place] = value
    with pytest.raises(AssertionError, match=message):
        quantized_down(*arguments)
