"""An engine is `prune` and `generate` with buffers that stay between batches; it leaves nothing behind."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from families import build
from regrow.decoding.fused import FusedNetwork
from regrow.errors import RegrowError, UsageError

BATCH = prompts(4)
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return build("qwen2")


def test_batches_give_what_each_gives_alone(model: PreTrainedModel) -> None:
    """The batches differ in size, and the first runs again at the end: no batch affects the next."""
    batches = [BATCH, BATCH[:2], BATCH]
    alone = [regrow.generate(model, **arguments(batch), method=METHOD) for batch in batches]
    with regrow.Engine(model, METHOD) as engine:
        for batch, want in zip(batches, alone, strict=True):
            done = engine.generate(**arguments(batch))
            assert done.tokens == want.tokens
            assert (done.report.weights_kept, done.report.turnover) == (
                want.report.weights_kept,
                want.report.turnover,
            )
    assert alone[0].report.sparse_steps > 0


def test_without_a_method_it_is_dense(model: PreTrainedModel) -> None:
    with regrow.Engine(model) as engine:
        assert torch.equal(engine.generate(**arguments(BATCH)).sequences, model.generate(**arguments(BATCH)))


def test_an_engine_is_lossless_unless_a_batch_says_otherwise(model: PreTrainedModel) -> None:
    dense, two = arguments(BATCH), regrow.Lossless(regrow.NGram(), window=2)
    want = regrow.generate(model, **dense).tokens
    with regrow.Engine(model, METHOD, lossless=two) as engine:
        own, pruned = engine.generate(**dense), engine.generate(**dense, lossless=False)
        masked = engine.generate(**dense, lossless=True)
        again = engine.generate(**dense, lossless=None)
    assert own.tokens == masked.tokens == again.tokens == want
    assert own.report.drafted == again.report.drafted > 0
    assert masked.report.drafted > 0
    assert pruned.tokens != want
    assert pruned.report.drafted == 0
    with regrow.Engine(model, lossless=True) as engine:
        assert engine.generate(**dense).report.drafted > 0
    with regrow.Engine(model) as engine:
        assert engine.generate(**dense).report.drafted == 0
        assert engine.generate(**dense, lossless=two).report.drafted == own.report.drafted


def test_another_value_of_lossless_is_refused_before_the_model_is_pruned(model: PreTrainedModel) -> None:
    sentence = r"lossless is True, False or a regrow\.Lossless, not str"
    with pytest.raises(UsageError, match=sentence):
        regrow.Engine(model, lossless="yes")  # type: ignore[arg-type]
    assert "generate" not in vars(model)
    with regrow.Engine(model) as engine, pytest.raises(UsageError, match=sentence):
        engine.generate(**arguments(BATCH), lossless="yes")


@pytest.mark.parametrize("lossless", [regrow.Lossless(regrow.FourBit()), regrow.Lossless(regrow.Cascade())])
def test_an_engine_rounds_weights_once_and_says_how_far_it_is(
    model: PreTrainedModel, lossless: regrow.Lossless
) -> None:
    seen: list[tuple[int, int]] = []
    with regrow.Engine(model, lossless=lossless) as engine:
        for batch in (BATCH, BATCH[:2]):
            engine.generate(**arguments(batch), rounding=lambda done, layers: seen.append((done, layers)))
    assert seen == [(1, 2), (2, 2)]


def test_a_closed_engine_is_refused_and_the_model_is_its_own_again(model: PreTrainedModel) -> None:
    engine = regrow.Engine(model, METHOD)
    engine.close()
    engine.close()
    assert "generate" not in vars(model)
    with pytest.raises(UsageError, match="closed"):
        engine.generate(**arguments(BATCH))
    with regrow.Engine(model), pytest.raises(UsageError, match="closed"):
        engine.generate(**arguments(BATCH))


def test_two_engines_on_one_model_are_refused(model: PreTrainedModel) -> None:
    with regrow.Engine(model), pytest.raises(UsageError, match="already pruned"):
        regrow.Engine(model)


def tensors() -> int:
    """Return the number of bytes of all live tensors."""
    gc.collect()
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) is Tensor
    }
    return sum(storages.values())


def test_a_hundred_engines_leave_nothing_behind(model: PreTrainedModel) -> None:
    def one() -> None:
        with regrow.Engine(model, METHOD) as engine:
            engine.generate(**arguments(BATCH[:2], max_new_tokens=6))

    one()
    before = tensors()
    for _ in range(100):
        one()
    assert tensors() == before


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't")],
)
def test_too_little_memory_is_one_sentence(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> None:
        raise error

    before = model.generate(**arguments(BATCH))
    monkeypatch.setattr(FusedNetwork, "_allocate", full)
    with (
        regrow.Engine(model) as engine,
        pytest.raises(RegrowError, match=r"not enough memory for 4 rows of \d+ tokens .* smaller batches"),
    ):
        engine.generate(**arguments(BATCH))
    assert "generate" not in vars(model)
    assert torch.equal(model.generate(**arguments(BATCH)), before)


def test_other_failures_stay_themselves(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(FusedNetwork, "_allocate", broken)
    with regrow.Engine(model) as engine, pytest.raises(RuntimeError, match="something else"):
        engine.generate(**arguments(BATCH))


def test_prompts_on_another_device_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(UsageError, match=r"the prompts are on meta and the model on cpu; move"):
        regrow.generate(model, torch.zeros(1, 4, dtype=torch.int64, device="meta"))


def test_batches_inside_and_outside_of_inference_mode_share_an_engine() -> None:
    """The model is created in inference mode, so its weights have no version counter."""
    with torch.inference_mode():
        model = build("qwen2")
        want = regrow.generate(model, **arguments(BATCH), method=METHOD).tokens
    with regrow.Engine(model, METHOD) as engine:
        with torch.inference_mode():
            assert engine.generate(**arguments(BATCH)).tokens == want
        assert engine.generate(**arguments(BATCH)).tokens == want


def test_a_static_cache_of_transformers_in_inference_mode() -> None:
    """The cache is created and written in the caller's inference mode."""
    with regrow.Engine(build("phi3"), METHOD) as engine:
        want = engine.generate(**arguments(BATCH)).tokens
        with torch.inference_mode():
            assert engine.generate(**arguments(BATCH, cache_implementation="static")).tokens == want


def test_an_empty_batch_is_refused(model: PreTrainedModel) -> None:
    with (
        regrow.Engine(model) as engine,
        pytest.raises(UsageError, match="the batch is empty; give at least one prompt"),
    ):
        engine.generate(torch.empty(0, 3, dtype=torch.int64), max_new_tokens=2)
