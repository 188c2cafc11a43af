"""Weights that are laid out for oneDNN: the tokens are transformers' own, changes are followed, and the model is left as it was."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

import regrow
from batches import arguments, new_tokens, prompts
from calibrations import calibration_for
from families import SIZES
from kernels.compiled_here import COMPILED
from regrow import kernels
from regrow.adapter import laid_out
from regrow.decoding import choose_network, stepper
from regrow.errors import NoMemoryError, UsageError
from regrow.kernels import Products, cpu_library
from regrow.kernels.laid_out.products import STORED
from regrow.kernels.laid_out.weight import MOST, can_lay_out, few_rows_are_right
from regrow.kernels.pruned_ffn.cpu import CompiledFFN
from regrow.kernels.pruned_ffn.laid_out import LaidOutFFN
from regrow.method.base import Method
from regrow.pruning import neurons

BATCH = prompts(3, seed=4)
LAID_OUT = Products("laid out", "laid out", 4, 0, {})
OURS = Products("compiled", "compiled", 4, MOST, {})
NATIVE_ALONE = Products("native", "laid out", 4, 0, {})
BAP = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)
METHODS: list[Method] = [regrow.Dense(), BAP, regrow.Griffin(sparsity=0.5), regrow.Magnitude(sparsity=0.5), regrow.EveryToken(sparsity=0.5)]


def measured(monkeypatch: pytest.MonkeyPatch, products: Products) -> None:
    for module in (choose_network, neurons):
        monkeypatch.setattr(module, "products", lambda dtype, *_: products if can_lay_out(dtype) else STORED)


@pytest.fixture(autouse=True, params=["no compiler", "oneDNN", pytest.param("our own product", marks=COMPILED)])
def _laid_out(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    measured(monkeypatch, OURS if request.param == "our own product" else LAID_OUT)
    if request.param == "no compiler":
        monkeypatch.setattr(kernels, "library", lambda: None)
        monkeypatch.setattr(cpu_library.Kernel, "get", lambda self, dtype: None)


def build(family: str = "Qwen2", *, tied: bool = False, dtype: torch.dtype = torch.float32, **more: int) -> PreTrainedModel:
    """Large enough that what is retained fits oneDNN's blocks."""
    sizes: dict[str, Any] = SIZES | {"hidden_size": 64, "intermediate_size": 192, "head_dim": 32, "tie_word_embeddings": tied}
    sizes |= more | ({"sliding_window": None} if family == "Mistral" else {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes))
    return model.to(dtype).eval()


def tokens(model: PreTrainedModel, batch: list[list[int]] = BATCH) -> list[list[int]]:
    return new_tokens(batch, model.generate(**arguments(batch, max_new_tokens=40)))


def copied(model: PreTrainedModel, method: Method) -> AbstractContextManager[object]:
    return regrow.prune(model, method, lay_out=True)


def moved(model: PreTrainedModel, method: Method) -> AbstractContextManager[object]:
    return regrow.Engine(model, method, owns_model=True)


WAYS = [copied, moved]
Way = Callable[[PreTrainedModel, Method], AbstractContextManager[object]]


def is_laid_out(model: PreTrainedModel) -> bool:
    return "forward" in vars(model.model.layers[0].self_attn.o_proj)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [1, 3])
def test_dense_tokens_are_those_of_transformers(family: str, tied: bool, way: Way, rows: int) -> None:
    model, batch = build(family, tied=tied), BATCH[:rows]
    theirs, weights = tokens(model, batch), copy.deepcopy(model.state_dict())
    seen: list[bool] = []
    with way(model, regrow.Dense()):
        watched = arguments(batch, max_new_tokens=40) | {"watch": lambda _: seen.append(is_laid_out(model))}
        assert new_tokens(batch, model.generate(**watched)) == theirs
        assert tokens(model, batch) == theirs
    assert all(seen)
    assert len(seen) == 40
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert not is_laid_out(model)
    assert tokens(model, batch) == theirs


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("way", WAYS)
def test_a_pruned_model_gives_the_tokens_of_plain_weights(method: Method, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loads = build(), []
    for form in (LaidOutFFN, CompiledFFN):
        monkeypatch.setattr(form, "load", lambda self, index, load=form.load: loads.append(index) or load(self, index))
    with monkeypatch.context() as plain:
        measured(plain, Products("onednn", "onednn", 1, 0, {}))
        with regrow.prune(model, method):
            want = tokens(model)
    assert not loads
    with way(model, method):
        assert tokens(model) == want
    assert bool(loads) == (method.name in ("bap", "griffin", "magnitude"))


@pytest.mark.parametrize("way", WAYS)
def test_batches_of_one_row_and_of_several_take_turns(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, NATIVE_ALONE)
    model = build()
    want = [tokens(model, BATCH[:rows]) for rows in (3, 1, 3, 1)]
    with way(model, regrow.Dense()):
        found = []
        for rows in (3, 1, 3, 1):
            found.append(tokens(model, BATCH[:rows]))
            assert is_laid_out(model) == (rows > 1 and way is moved)  # between batches a copy stands in for nothing
    assert found == want


def replaced(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        for linear in (layer.mlp.gate_proj, layer.self_attn.q_proj, layer.self_attn.o_proj):
            linear.weight.data = torch.full_like(linear.weight, 0.125).copysign_(torch.randn(linear.weight.shape))


def written(model: PreTrainedModel) -> None:
    for layer in model.model.layers:
        for linear in (layer.mlp.gate_proj, layer.self_attn.k_proj, layer.self_attn.o_proj):
            linear.weight.data.neg_()


@pytest.mark.parametrize("method", [regrow.Dense(), BAP], ids=["dense", "bap"])
@pytest.mark.parametrize(("way", "change"), [(copied, replaced), (copied, written), (moved, replaced)])
def test_weights_that_change_between_batches_are_followed(way: Way, change: Callable[..., None], method: Method) -> None:
    model, other = build(), build()
    for one in (model, other):
        torch.manual_seed(1)
        change(one)
    with regrow.prune(other, method):
        want = tokens(other)
    model = build()
    with way(model, method):
        before = tokens(model)
        torch.manual_seed(1)
        change(model)
        assert tokens(model) == want != before
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in model.state_dict().items())


def test_weights_that_were_given_up_cannot_be_written_to_read_or_saved(tmp_path: Path) -> None:
    model = build()
    with moved(model, regrow.Dense()):
        tokens(model)
        weight = model.model.layers[0].self_attn.o_proj.weight
        assert weight.isnan().all()
        assert weight.untyped_storage().nbytes() <= 8
        with pytest.raises(RuntimeError, match="single memory location"):
            weight.data.mul_(2)
        attention, gate = model.model.layers[1].self_attn, model.model.layers[0].mlp.gate_proj
        uses = [use for part in (model, attention, gate) for use in (part.state_dict, partial(copy.deepcopy, part))]
        for use in (*uses, partial(model.save_pretrained, tmp_path)):
            with pytest.raises(UsageError, match="close the engine"):
                use()
    assert not list(tmp_path.iterdir())
    copy.deepcopy(model)
    attention.state_dict()


@pytest.mark.parametrize("between", [False, True], ids=["before closing", "before another batch"])
def test_a_model_that_is_cast_meanwhile_has_its_weights_cast(between: bool) -> None:
    model, other = build(), build().double()
    with moved(model, BAP):
        tokens(model)
        model.double()
        if between:
            with regrow.prune(other, BAP):
                assert tokens(model) == tokens(other)
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_modules_share_are_laid_out_for_each(way: Way) -> None:
    model = build()
    first, second = model.model.layers
    for name in ("mlp.gate_proj", "self_attn.o_proj", "self_attn.q_proj"):
        second.get_submodule(name).weight = first.get_submodule(name).weight
    theirs = tokens(model)
    with way(model, regrow.Dense()):
        assert tokens(model) == theirs
    assert tokens(model) == theirs
    assert second.mlp.gate_proj.weight is first.mlp.gate_proj.weight


def test_a_model_whose_weights_have_copies_is_copied_as_it_is_while_a_batch_runs() -> None:
    model, made = build(), []
    with copied(model, BAP):
        model.generate(**arguments(BATCH, max_new_tokens=3), watch=lambda _: made.append(copy.deepcopy(model)))
    want = tokens(model)
    assert len(made) == 3
    assert not is_laid_out(made[0])
    assert tokens(made[0]) == want


@pytest.mark.parametrize("way", WAYS)
def test_calls_outside_of_generate_give_the_models_own_logits(way: Way) -> None:
    model, ids = build(), torch.tensor([BATCH[0]])
    with torch.no_grad():
        want = model(ids).logits
        with way(model, regrow.Dense()):
            tokens(model)
            assert torch.allclose(model(ids).logits, want, atol=1e-4)


@COMPILED
@pytest.mark.parametrize(("name", "result"), [("add_rms_norm", 4), ("rope_cache", 10), ("decode_attention", 6)])
@pytest.mark.parametrize("way", WAYS)
def test_kernels_that_compute_something_else_are_not_used(way: Way, name: str, result: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numeric check of the by-parts way tries them: the model then runs through its own forward."""
    model = build()
    if not kernels.steps_compiled(model.lm_head.weight, model.config.head_dim):
        pytest.skip("without a compiler there are no kernels to try")
    want, called = tokens(model), []

    def wrong(*arguments: torch.Tensor) -> None:
        called.append(name)
        arguments[result].normal_()

    monkeypatch.setattr(stepper, name, wrong)
    with way(model, regrow.Dense()):
        assert tokens(model) == want
    assert called
    assert all(torch.equal(weight, build().state_dict()[name]) for name, weight in model.state_dict().items())


@COMPILED
@pytest.mark.parametrize("method", [regrow.Dense(), BAP], ids=["dense", "bap"])
@pytest.mark.parametrize("way", WAYS)
def test_steps_are_replayed_and_recorded_anew_when_weights_lie_elsewhere(way: Way, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, OURS)
    model, recorded, replayed = build(vocab_size=128), [], []  # so that our own product takes the head as well
    if not kernels.steps_compiled(model.lm_head.weight, model.config.head_dim) or not few_rows_are_right(torch.float32):
        pytest.skip("without a product of ours nothing is recorded")

    def record(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor] | None:
        recorded.append(found := kernels.record(step))
        return found and (lambda: replayed.append(found[0]()), found[1])

    monkeypatch.setattr(choose_network, "record", record)
    kinds = 2 if method is BAP else 1
    with regrow.prune(model, method):
        want = tokens(model)
    with way(model, method):
        assert tokens(model) == want
        assert len(recorded) == kinds  # observed steps and sparse ones
        assert None not in recorded
        assert len(replayed) == 39 - kinds  # the first of a kind is run
        handle = model.model.layers[0].register_forward_hook(lambda *_: None)
        tokens(model)  # through the model's own forward, which needs its weights back
        handle.remove()
        assert tokens(model) == want
        assert len(recorded) == 2 * kinds


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_inside_of_an_ffn_is_called_between_batches(way: Way) -> None:
    model, called = build(), []
    with way(model, regrow.Dense()):
        tokens(model)
        hook = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: called.append(True))
        model(torch.tensor([BATCH[0]]))
        hook.remove()
    assert called == [True]


def test_another_network_has_the_weights_back() -> None:
    """A hook sends the model through its own forward."""
    model = build()
    want = tokens(model)
    with moved(model, regrow.Dense()):
        tokens(model)
        handle = model.model.layers[0].register_forward_hook(lambda *_: None)
        assert tokens(model) == want
        assert not is_laid_out(model)
        handle.remove()
        assert tokens(model) == want


def test_the_price_of_a_copy_is_told_and_one_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    linears = sum(p.nbytes for name, p in model.named_parameters() if "proj.weight" in name or "lm_head" in name)
    with regrow.prune(model, regrow.Dense(), lay_out=True) as session:
        tokens(model)
        assert session.report().state_bytes == linears
    monkeypatch.setattr(laid_out, "available_memory", lambda: linears - 1)
    with regrow.prune(model, regrow.Dense(), lay_out=True), pytest.raises(NoMemoryError, match="a second copy"):
        tokens(model)
    with regrow.Engine(model, owns_model=True) as engine:
        tokens(model)
        assert engine.session.report().state_bytes == 0
    with regrow.Engine(model, BAP, owns_model=True):  # copies that nobody asked for are not made
        monkeypatch.setattr(laid_out, "available_memory", lambda: 1)
        tokens(model)
        assert not is_laid_out(model)


def test_a_method_with_weights_of_its_own_or_a_calibration_keeps_the_models() -> None:
    model = build()
    with regrow.Engine(model, regrow.TEAL(sparsity=0), owns_model=True):
        tokens(model)
        assert is_laid_out(model)
    with regrow.Engine(model, regrow.Wanda(sparsity=0), owns_model=True):
        tokens(model)
        assert not is_laid_out(model)
    method = regrow.CATS(sparsity=0.5)
    with regrow.Engine(model, method, calibration=calibration_for(model, method), owns_model=True):
        tokens(model)
        assert not is_laid_out(model)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("way", WAYS)
def test_copies_go_with_their_context(method: Method, way: Way) -> None:
    """By reference counts alone: gigabytes do not wait for Python's search for circles."""
    model = build()
    gc.collect()
    gc.disable()
    try:
        with way(model, method) as context:
            tokens(model)
            session = getattr(context, "session", context)
            pruner, network = weakref.ref(session.pruner), weakref.ref(vars(model)["generate"]._networks._fused)
        del context, session
        assert pruner() is None
        assert network() is None
    finally:
        gc.enable()
