"""Scores of a dense step: Triton kernels, CPU kernel and reference against the definition in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kernels.compiled_here import COMPILED
from kernels.custom_ops import check_custom_op
from regrow import kernels
from regrow.core import Spec
from regrow.kernels.cpu_library import library
from regrow.kernels.scores import cpu as score_cpu
from regrow.kernels.scores import reference
from regrow.kernels.scores import triton as score
from regrow.kernels.scores.triton import observe, observe_workspace
from regrow.selection.budget import parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule

# All dtypes of z are squared in float32, and all terms are positive. What remains are the roundings of some
# thousand squares, added pairwise, and of a few tokens.
RTOL = 1e-5
NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def poisoned(layers: int, tokens: int, neurons: int) -> Tensor:
    return torch.full(observe_workspace(layers, tokens, neurons), NAN)


def spans(slots: int) -> Tensor:
    """Returns a workspace for spans, with indices that are outside of any memory."""
    return torch.full((slots, 2), -(2**31), dtype=torch.int32)


def expected(z: Tensor, slot: Sequence[int], total: Tensor) -> Tensor:
    """Computes the definition token by token, in float64."""
    total = total.double()
    for row, token in zip(slot, z.double(), strict=True):
        norm = token.square().sum().sqrt()
        if row >= 0 and norm > 0:
            total[row] += (token / norm) ** 2
    return total


def run(z: Tensor, slot: Sequence[int], total: Tensor) -> Tensor:
    """Runs the kernels, checks them and the reference against the definition, and returns the total."""
    wanted, given, before = expected(z, slot, total), total.clone(), total.clone()
    observe(z, torch.tensor(slot), total, poisoned(1, *z.shape), spans(len(total)))
    torch.testing.assert_close(total.double(), wanted, rtol=RTOL, atol=0)
    reference.observe(z, torch.tensor(slot), given)
    torch.testing.assert_close(given.double(), wanted, rtol=RTOL, atol=0)
    if library() is not None:
        compiled = before.clone()
        for dtype in {z.dtype, torch.bfloat16} - {torch.float16}:
            compiled.copy_(before)
            score_cpu.observe(z.to(dtype), torch.tensor(slot), compiled)
            torch.testing.assert_close(
                compiled.double(), expected(z.to(dtype), slot, before), rtol=RTOL, atol=0
            )
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("slot", "neurons"),
    [
        pytest.param([0], 700, id="one token, a block and a part of one"),
        pytest.param([2, 0], 512, id="whole blocks"),
        pytest.param([1, -1, 0, 1, -1], 33, id="a slot twice, and tokens that do not count"),
        pytest.param([-1, -1], 40, id="nothing counts"),
        pytest.param([0, 1] * 9 + [3] + [-1] * 14 + [0, 3], 520, id="tokens of a slot lie far apart"),
        pytest.param([3, 1, 0, 2], 2100, id="one token a slot"),
        pytest.param([1, -1, 1], 2100, id="fewer tokens than slots, two of them of one"),
        pytest.param([1, 0, 1], 9000, id="squares summed in three parts"),
        pytest.param(
            [2] + [0] * 1030 + [2, 1] + [-1] * 40 + [2], 40, id="more tokens than are looked through at once"
        ),
    ],
)
def test_adds_the_squares_of_normed_activations(slot: list[int], neurons: int, dtype: torch.dtype) -> None:
    run(normal(len(slot), neurons).to(dtype), slot, normal(4, neurons, seed=1).square())


@COMPILED
def test_on_a_cpu_what_is_no_number_counts_as_in_the_definition() -> None:
    z = normal(5, 60)
    z[1], z[2, 7], z[3, 4] = 0, NAN, float("inf")
    slot, total = torch.tensor([0, 1, 2, 3, -1]), normal(4, 60, seed=1).square()
    wanted = total.clone()
    reference.observe(z, slot, wanted)
    score_cpu.observe(z, slot, total)
    torch.testing.assert_close(total, wanted, rtol=RTOL, atol=0, equal_nan=True)
    assert total[3].isnan().sum() == 1


@COMPILED
def test_on_a_cpu_parts_of_wider_tensors_all_layers_at_once_and_what_does_not_fit() -> None:
    wide, many, slot = (
        torch.full((3, 5, 2300), NAN),
        torch.full((3, 4, 2200), NAN),
        torch.tensor([1, 0, -1, 1, 1]),
    )
    z, total = wide[..., 100:2200], many[:, ::2, :2100]
    z.copy_(normal(3, 5, 2100))
    total.copy_(normal(3, 2, 2100, seed=1).square())
    one_by_one = total.clone()
    for layer in range(3):
        score_cpu.observe(z[layer], slot, one_by_one[layer])
    score_cpu.observe(z, slot, total)
    assert torch.equal(one_by_one, total)
    assert many[:, 1::2].isnan().all()
    assert many[..., 2100:].isnan().all()
    for given, fault in (
        ((z, slot[:4], total), "do not fit"),
        ((z, slot, total[:2]), "do not fit"),
        ((z.mT, slot, total), "adjacent"),
    ):
        with pytest.raises(ValueError, match=fault):
            score_cpu.observe(*given)
    with pytest.raises(TypeError, match="of type"):
        score_cpu.observe(z, slot, total.double())


def test_what_has_no_norm_adds_nothing() -> None:
    z = normal(4, 60)
    z[1] = 0
    z[2, 7] = NAN
    total = normal(3, 60, seed=1).square()
    others = total[[1, 2]].clone()
    observe(z, torch.tensor([0, 1, 2, 0]), total, poisoned(1, 4, 60), spans(3))
    assert torch.equal(total[[1, 2]], others)
    assert not total.isnan().any()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scores_do_not_depend_on_the_scale_of_a_token(scale: float) -> None:
    z = normal(3, 100)
    one, other = (run(by * z, [0, 1, 0], torch.zeros(2, 100)) for by in (1, scale))
    torch.testing.assert_close(one, other, rtol=RTOL, atol=0)


def test_slots_without_a_token_are_left_alone() -> None:
    total = torch.full((4, 100), NAN)
    total[1] = 0
    observe(normal(2, 100), torch.tensor([1, -1]), total, poisoned(1, 2, 100), spans(4))
    assert total[1].isfinite().all()
    assert total[[0, 2, 3]].isnan().all()


def test_activations_and_totals_may_be_parts_of_wider_tensors() -> None:
    wide, many = torch.full((5, 300), NAN), torch.full((6, 150), NAN)
    wide[:, 100:200], many[::2, :100] = normal(5, 100), 0
    run(wide[:, 100:200], [0, 2, 1, 0, -1], many[::2, :100])
    assert many[1::2].isnan().all()
    assert many[:, 100:].isnan().all()


def test_all_layers_at_once_give_the_bits_of_one_after_the_other() -> None:
    z, slot = normal(3, 5, 600), torch.tensor([1, 0, -1, 1, 1])
    total = normal(3, 2, 600, seed=1).square()
    one_by_one, together = total.clone(), total.clone()
    for layer in range(3):
        observe(z[layer], slot, one_by_one[layer], poisoned(1, 5, 600), spans(2))
    observe(z, slot, together, poisoned(3, 5, 600), spans(2))
    assert torch.equal(one_by_one, together)
    reference.observe(z, slot, total)
    torch.testing.assert_close(total, together, rtol=RTOL, atol=0)


def test_the_same_step_gives_the_same_bits() -> None:
    z, slot, totals = normal(20, 600), torch.tensor([0, 1, 1, 0] * 5), torch.zeros(2, 2, 600)
    for total, before in zip(totals, (NAN, 0), strict=True):
        observe(z, slot, total, torch.full(observe_workspace(1, 20, 600), float(before)), spans(2))
    assert torch.equal(*totals)


def test_the_reference_is_the_accumulation_of_index_sets() -> None:
    method = IndexSet(parse_sparsity(0.5), Schedule(init_steps=1, explore_steps=1, period=2))
    state = method.init(Spec(layers=2, neurons=50, slots=3, device=torch.device("cpu"), dtype=torch.float32))
    z, slot = normal(6, 50), torch.tensor([0, -1, 2, 0, 1, 2])
    z[4] = 0
    total = state.total[1].clone()
    method.open(state)
    method.observe(state, 1, z, slot)
    method.commit(state, slot)
    reference.observe(z, slot, total)
    assert torch.equal(state.total[1], total)


def test_refuses_neurons_that_are_not_adjacent() -> None:
    with pytest.raises(ValueError, match="adjacent"):
        observe(
            normal(6, 4).t(),
            torch.zeros(4, dtype=torch.int64),
            torch.zeros(1, 6),
            poisoned(1, 4, 6),
            spans(1),
        )


def test_is_a_custom_operator() -> None:
    check_custom_op(
        observe,
        (
            normal(3, 40),
            torch.tensor([0, -1, 1]),
            torch.zeros(3, 40),
            torch.zeros(observe_workspace(1, 3, 40)),
            torch.zeros(3, 2, dtype=torch.int32),
        ),
    )


@pytest.mark.parametrize("shape", [(1, 2), (3, 2), (2, 3), (4,)])
def test_refuses_spans_of_another_shape(shape: tuple[int, ...]) -> None:
    span = torch.zeros(shape, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"span is \[2, 2\] int32"):
        observe(normal(2, 6), torch.tensor([0, 1]), torch.zeros(2, 6), poisoned(1, 2, 6), span)


@pytest.mark.parametrize("span", [torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int32).t()])
def test_refuses_spans_that_lie_or_count_otherwise(span: Tensor) -> None:
    with pytest.raises(ValueError, match="span"):
        observe(normal(2, 6), torch.tensor([0, 1]), torch.zeros(2, 6), poisoned(1, 2, 6), span)


@pytest.mark.parametrize(
    ("slot", "dtype"),
    [
        ([0, 1, 2, 3], torch.float32),
        ([2], torch.float16),
        ([3, -1, 0, -1], torch.float32),
        ([-1, -1], torch.float32),
        ([1, 1, 1], torch.float16),
        ([0, 3, 0, 3], torch.float32),
        ([2, 0, 2, 2], torch.float16),
        ([5, 4, 3, 2, 1, 0], torch.float32),
        (list(range(40)), torch.float32),
    ],
)
def test_one_by_one_has_the_bits_of_tokens_that_are_looked_for(slot: list[int], dtype: torch.dtype) -> None:
    """Adds three layers at once. One token has norm 0, and one has norm NaN."""
    z, slots = normal(3, len(slot), 2100).to(dtype), max(len(slot), 6)
    z[1, 0], z[2, -1, 7] = 0, NAN
    found, total = torch.tensor(slot), normal(3, slots, 2100, seed=1).square()
    ours, theirs = total.clone(), total.clone()
    observe(z, found, ours, poisoned(*z.shape), spans(slots))
    partial = poisoned(*z.shape)
    score.square[(len(slot), 1, 3)](z, partial, z.stride(0), z.stride(1), 2100, 4096)
    score.add_tokens[(2, slots, 3)](
        z, found, partial, theirs, len(slot), z.stride(0), z.stride(1), theirs.stride(0), theirs.stride(1),
        2100, 1, 1, 16, 1, 2048,
    )  # fmt: skip
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, total) or max(slot) < 0


@pytest.mark.parametrize("tokens", [1, kernels.OBSERVED, kernels.OBSERVED + 1, 2 * kernels.OBSERVED + 7])
def test_a_prompt_of_any_length_adds_what_the_definition_adds(tokens: int) -> None:
    """The results agree bit for bit, however many chunks of tokens a CPU needs."""
    z, slot = (
        torch.randn(2, tokens, 40, generator=torch.Generator().manual_seed(0)),
        torch.arange(tokens) % 4 - 1,
    )
    ours, theirs = torch.zeros(2, 3, 40), torch.zeros(2, 3, 40)
    kernels.observe(z, slot, ours)
    for layer in range(2):
        reference.observe(z[layer], slot, theirs[layer])
    assert torch.equal(ours, theirs)
