"""Bytes and bounds against numbers worked out by hand: the paper's two models, bfloat16, short context."""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch

import regrow
from regrow.bench.roofline import Weights, per_step, weights_of
from regrow.bench.shapes import SHAPES, Shape
from regrow.core import Site
from regrow.method.base import Method
from regrow.selection.schedule import ALWAYS_DENSE, ALWAYS_SPARSE, Schedule

GB = 1e9
OURS = Schedule(init_steps=0, explore_steps=2, period=20)


def weights(of: Shape, element: int = 2) -> Weights:
    """Return the bytes of a shape, from its sizes."""
    attention = of.layers * of.width * of.head_width
    sites = {
        Site.QKV: attention * (of.heads + 2 * of.kv_heads),
        Site.O: attention * of.heads,
        Site.GATE_UP: of.layers * 2 * of.width * of.neurons,
        Site.DOWN: of.layers * of.width * of.neurons,
    }
    kv = 2 * of.layers * of.kv_heads * of.head_width
    return Weights(
        {site: element * size for site, size in sites.items()},
        element * of.width * of.vocabulary,
        element * kv,
    )


def parts(of: Weights) -> tuple[int, int, int, int]:
    return of.dense(1, 0), of.ffn, of.sites[Site.QKV] + of.sites[Site.O], of.head


def test_the_parts_of_a_dense_step() -> None:
    qwen, llama = weights(SHAPES["qwen-7b"]), weights(SHAPES["llama-8b"])
    assert [round(part / GB, 2) for part in parts(qwen)] == [14.14, 11.41, 1.64, 1.09]
    assert [round(part / GB, 2) for part in parts(llama)] == [15.01, 11.27, 2.68, 1.05]
    assert (qwen.kv_token, llama.kv_token) == (57_344, 131_072)
    assert qwen.dense(4, 100) - qwen.dense(1, 0) == 400 * 57_344


@pytest.mark.parametrize(
    ("shape", "method", "schedule", "gigabytes", "bound"),
    [
        ("qwen-7b", regrow.Griffin(), ALWAYS_SPARSE, 8.44, 1.676),
        ("llama-8b", regrow.Griffin(), ALWAYS_SPARSE, 9.37, 1.601),
        ("qwen-7b", regrow.BatchwiseAdaptive(), OURS, 9.01, 1.570),
        ("llama-8b", regrow.BatchwiseAdaptive(), OURS, 9.94, 1.511),
        ("qwen-7b", regrow.TEAL(), ALWAYS_SPARSE, 7.62, 1.857),
        ("llama-8b", regrow.TEAL(), ALWAYS_SPARSE, 8.03, 1.869),
        ("qwen-7b", regrow.Dense(), ALWAYS_DENSE, 14.14, 1.0),
    ],
)
def test_bounds_of_methods(
    shape: str, method: Method, schedule: Schedule, gigabytes: float, bound: float
) -> None:
    of = weights(SHAPES[shape])
    dense = of.dense(1, 0)
    size = per_step(dense, of.pruned(method, 1, 0), schedule)
    assert size / GB == pytest.approx(gigabytes, abs=0.006)
    assert dense / size == pytest.approx(bound, abs=0.001)


def test_what_a_refresh_moves_is_shared_by_a_period() -> None:
    """In every period a refresh reads and writes half of the FFN weights."""
    of = weights(SHAPES["qwen-7b"])
    size = per_step(of.dense(1, 0), of.pruned(regrow.BatchwiseAdaptive(), 1, 0), OURS, 2 * 0.5 * of.ffn)
    assert size / GB == pytest.approx(9.58, abs=0.006)
    assert of.dense(1, 0) / size == pytest.approx(1.476, abs=0.001)


def test_the_long_context_dilutes_it() -> None:
    of = weights(SHAPES["qwen-7b"])
    found = []
    for rows in (1, 4, 8, 16):
        dense, pruned = of.dense(rows, 16000), of.pruned(regrow.BatchwiseAdaptive(), rows, 16000)
        found.append(round(dense / per_step(dense, pruned, OURS), 2))
    assert found == [1.52, 1.40, 1.31, 1.22]


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_has_the_bytes_of_its_shape(tied: bool) -> None:
    shape = Shape("tiny", "qwen2", 3, 32, 48, 4, 2, 8, 100, tied)
    model = shape.build(torch.bfloat16, torch.device("cpu"))
    assert weights_of(model) == weights(shape)
    assert (
        weights_of(model).pruned(regrow.Griffin(sparsity=Decimal("0.25")), 1, 0)
        == weights(shape).dense(1, 0) - weights(shape).ffn // 4
    )
    assert all(parameter.isfinite().all() for parameter in model.parameters())
