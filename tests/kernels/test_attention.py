"""Decode attention: the kernels and the reference against a loop over rows, tokens and heads in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from kernels.compiled_here import COMPILED
from kernels.custom_ops import check_custom_op
from regrow.kernels.attention import cpu, reference
from regrow.kernels.attention.triton import attention_workspace, decode_attention, split_count

NAN = float("nan")
SCALE = 0.3
# Relative to the largest value. float16 rounds the probabilities and the output, by 2^-11 each.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
HALF = {"triton": torch.float16, "cpu": torch.bfloat16}
FORMS = pytest.mark.parametrize("form", ["triton", pytest.param("cpu", marks=COMPILED)])


@dataclass(frozen=True)
class Case:
    """Sizes of a step, with the first position and the length of every row."""

    width: int
    heads: int
    kv_heads: int
    head_width: int
    start: tuple[int, ...]
    length: tuple[int, ...]
    capacity: int = 200
    splits: int | None = None

    @property
    def rows(self) -> int:
        return len(self.start)

    def tensors(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries, key and value caches, starts and lengths; positions that no query attends to are NaN."""
        generator = torch.Generator().manual_seed(0)
        q = torch.randn(self.rows, self.width, self.heads, self.head_width, generator=generator)
        caches = torch.randn(2, self.rows, self.kv_heads, self.capacity, self.head_width, generator=generator)
        for row, (first, past) in enumerate(zip(self.start, self.length, strict=True)):
            caches[:, row, :, :first] = caches[:, row, :, past + self.width :] = NAN
        return q.to(dtype), *caches.to(dtype).unbind(), torch.tensor(self.start), torch.tensor(self.length)

    def for_form(self, form: str) -> Case:
        """The same case, with heads of a width that the implementation supports."""
        return (
            replace(self, head_width=-(-self.head_width // cpu.CHANNELS) * cpu.CHANNELS)
            if form == "cpu"
            else self
        )

    def workspaces(self) -> tuple[Tensor, Tensor]:
        partial, mass = attention_workspace(
            self.rows, self.width, self.heads, self.kv_heads, self.head_width, self.capacity
        )
        if self.splits is not None:
            partial, mass = ((*shape[:2], self.splits, *shape[3:]) for shape in (partial, mass))
        return torch.full(partial, NAN), torch.full(mass, NAN)


def expected(q: Tensor, k: Tensor, v: Tensor, start: Tensor, length: Tensor) -> Tensor:
    out = torch.empty(q.shape, dtype=torch.float64)
    groups = q.shape[2] // k.shape[1]
    for row, token, head in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        seen = slice(int(start[row]), int(length[row]) + token + 1)
        keys, values = (cache[row, head // groups, seen].double() for cache in (k, v))
        out[row, token, head] = (SCALE * keys @ q[row, token, head].double()).softmax(0) @ values
    return out


def attend(form: str, case: Case, q: Tensor, k: Tensor, v: Tensor, start: Tensor, length: Tensor) -> Tensor:
    out = torch.full_like(q, NAN)
    if form == "cpu":
        workspace = torch.full(cpu.attention_workspace(*q.shape, case.capacity), NAN)
        cpu.decode_attention(q, k, v, start, length, SCALE, out, workspace)
    else:
        decode_attention(q, k, v, start, length, SCALE, out, *case.workspaces())
    return out


def close(out: Tensor, wanted: Tensor, v: Tensor) -> None:
    torch.testing.assert_close(
        out.double(), wanted, rtol=0, atol=TOLERANCE[out.dtype] * float(v.nan_to_num().abs().max())
    )


CASES = {
    "the first token of a row": Case(1, 2, 2, 16, start=(0, 5), length=(0, 5)),
    "one token, ragged": Case(1, 7, 1, 32, start=(0, 3, 70, 0), length=(0, 100, 75, 129), capacity=130),
    "two tokens, padded heads": Case(2, 4, 2, 80, start=(0, 60), length=(70, 62)),
    "several splits and tokens": Case(5, 7, 1, 16, start=(0, 10), length=(0, 185), capacity=190),
    "a draft of sixteen": Case(17, 2, 1, 16, start=(0, 1), length=(0, 113), capacity=130),
    "more queries than a program holds": Case(17, 8, 1, 16, start=(2,), length=(60,), capacity=80, splits=1),
    "wide heads": Case(1, 2, 1, 256, start=(1,), length=(40,), capacity=50),
    # Positions 0 to 63 are one split. Position 64 is in the other, and only the last token attends to it.
    "a split that all tokens but the last do not see": Case(
        4, 1, 1, 16, start=(0,), length=(61,), capacity=65
    ),
    "one split": Case(2, 2, 1, 16, start=(0,), length=(180,), splits=1),
    "several pieces of a CPU's": Case(
        2, 14, 2, 64, start=(0, 600, 520), length=(1300, 1022, 1023), capacity=1302
    ),
    "uneven splits, and one that a short row leaves": Case(
        1, 2, 1, 16, start=(0, 0), length=(198, 20), splits=2
    ),
}


@FORMS
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_attends_to_the_positions_of_a_row(case: Case, form: str) -> None:
    case = case.for_form(form)
    tensors = case.tensors()
    close(attend(form, case, *tensors), expected(*tensors), tensors[2])


@pytest.mark.parametrize(
    "name",
    [
        "one token, ragged",
        "two tokens, padded heads",
        "several pieces of a CPU's",
        "more queries than a program holds",
    ],
)
@FORMS
def test_attends_in_half_precision(name: str, form: str) -> None:
    case = CASES[name].for_form(form)
    tensors = case.tensors(HALF[form])
    close(attend(form, case, *tensors), expected(*tensors), tensors[2])


def test_lengths_may_be_of_32_bits() -> None:
    case = CASES["two tokens, padded heads"]
    q, k, v, start, length = case.tensors()
    assert torch.equal(
        attend("triton", case, q, k, v, start.int(), length.int()),
        attend("triton", case, q, k, v, start, length),
    )


def test_tensors_may_be_parts_of_wider_ones() -> None:
    """Queries are part of a fused linear layer's output.

    In the cache, keys and values lie side by side, positions before heads.
    """
    case = CASES["two tokens, padded heads"]
    q, k, v, start, length = case.tensors()
    fused = torch.full((2, 2, 8 * 80), NAN)
    fused[..., : 4 * 80] = q.flatten(2)
    cache = torch.stack((k, v)).permute(1, 3, 0, 2, 4).contiguous()  # [B, S, 2, H_kv, d]
    keys, values = cache.permute(2, 0, 3, 1, 4)
    out = torch.full((2, 2, 5, 90), NAN)
    queries = fused[..., : 4 * 80].unflatten(-1, (4, 80))
    decode_attention(queries, keys, values, start, length, SCALE, out[:, :, :4, 8:88], *case.workspaces())
    assert torch.equal(out[:, :, :4, 8:88], attend("triton", case, q, k, v, start, length))
    assert out.isnan().sum() == out.numel() - q.numel()


@COMPILED
def test_on_a_cpu_caches_may_lie_in_any_order() -> None:
    case = CASES["two tokens, padded heads"].for_form("cpu")
    q, k, v, start, length = case.tensors()
    # Stored as [B, S, 2, H_kv, d].
    beside = torch.stack((k, v)).permute(1, 3, 0, 2, 4).contiguous().permute(2, 0, 3, 1, 4)
    assert torch.equal(
        attend("cpu", case, q, *beside, start, length), attend("cpu", case, q, k, v, start, length)
    )


@FORMS
def test_rows_do_not_depend_on_each_other(form: str) -> None:
    """A row gives the same bits in another order of rows, and without the other rows.

    The longest row is split at another position than the others.
    """
    case = replace(CASES["one token, ragged"], splits=2).for_form(form)
    tensors = case.tensors()
    out = attend(form, case, *tensors)
    order = torch.tensor([3, 0, 2, 1])
    assert torch.equal(attend(form, case, *(tensor[order] for tensor in tensors)), out[order])
    alone = replace(case, start=case.start[1:2], length=case.length[1:2])
    assert torch.equal(attend(form, alone, *(tensor[1:2] for tensor in tensors)), out[1:2])


@pytest.mark.parametrize("rows", [1, 3, 16, 64, 1000])
@pytest.mark.parametrize("capacity", [1, 64, 4096, 131072])
def test_splits_fill_a_gpu_and_no_more(rows: int, capacity: int) -> None:
    count = split_count(rows, 4, capacity)
    assert 1 <= count <= 64
    assert count == 1 or (count - 1) * 64 < capacity
    assert count == 1 or rows * 4 * (count - 1) < 512
    assert count in (64, -(-capacity // 64)) or rows * 4 * count >= 512


@FORMS
def test_refuses_what_it_would_read_wrongly(form: str) -> None:
    case = CASES["the first token of a row"].for_form(form)
    q, k, v, start, length = case.tensors()
    with pytest.raises(ValueError, match="adjacent"):
        attend(form, case, q, k.mT.contiguous().mT, v, start, length)
    with pytest.raises(ValueError, match="contiguous"):
        attend(form, case, q, k, v, start[:1].expand(2), length)


@COMPILED
def test_on_a_cpu_a_row_of_padding_gives_zeros_and_spoils_no_other() -> None:
    case = Case(1, 2, 1, 32, start=(9, 0), length=(4, 40), capacity=50)
    q, k, v, start, length = case.tensors()
    out = attend("cpu", case, q, k, v, start, length)
    assert not out[0].any()
    close(out[1:], expected(q[1:], k[1:], v[1:], start[1:], length[1:]), v)


@COMPILED
def test_on_a_cpu_types_are_those_that_are_compiled() -> None:
    case = CASES["the first token of a row"]
    q, k, v, start, length = case.tensors()
    for wrong in ((q, k, v, start.int(), length), (q, k.bfloat16(), v, start, length)):
        with pytest.raises(TypeError, match="of type"):
            attend("cpu", case, *wrong)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["one token, ragged", "several splits and tokens"])
def test_the_reference_reads_up_to_the_longest(name: str, dtype: torch.dtype) -> None:
    case = replace(CASES[name], capacity=230)
    q, k, v, start, length = case.tensors(dtype)
    longest = max(case.length) + case.width
    wanted, out = expected(q, k, v, start, length), torch.full_like(q, NAN)
    k[:, :, :longest], v[:, :, :longest] = k[:, :, :longest].nan_to_num(0), v[:, :, :longest].nan_to_num(0)
    reference.decode_attention(q, k, v, start, length, SCALE, out, *case.workspaces(), longest=longest)
    close(out, wanted, v)


def test_is_a_custom_operator() -> None:
    case = Case(2, 2, 1, 16, start=(0, 1), length=(3, 4), capacity=8)
    q, k, v, start, length = case.tensors()
    partial, mass = (torch.zeros_like(workspace) for workspace in case.workspaces())
    check_custom_op(
        decode_attention,
        (q, k.nan_to_num(), v.nan_to_num(), start, length, SCALE, torch.zeros_like(q), partial, mass),
    )
