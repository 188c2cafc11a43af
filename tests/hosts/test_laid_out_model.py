"""The state of a model while its weights are laid out for oneDNN, and after they were restored."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch

import regrow
from batches import arguments
from calibrations import calibration_for
from laid_out_models import (
    BAP,
    BATCH,
    METHODS,
    WAYS,
    Way,
    build,
    copied,
    is_laid_out,
    moved,
    tokens,
)
from regrow.adapter import lay_out
from regrow.errors import NoMemoryError, UsageError
from regrow.method.base import Method
from spread import spread

pytestmark = pytest.mark.usefixtures("laid_out_with")


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
        uses = [
            use
            for part in (model, attention, gate)
            for use in (part.state_dict, partial(copy.deepcopy, part))
        ]
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
        model.generate(
            **arguments(BATCH, max_new_tokens=3), watch=lambda _: made.append(copy.deepcopy(model))
        )
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
    """With a hook, the model runs through its own forward, which needs the stored weights."""
    model = build()
    want = tokens(model)
    with moved(model, regrow.Dense()):
        tokens(model)
        handle = model.model.layers[0].register_forward_hook(lambda *_: None)
        assert tokens(model) == want
        assert not is_laid_out(model)
        handle.remove()
        assert tokens(model) == want


def test_the_price_of_a_copy_is_told_and_one_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build()
    linears = sum(
        p.nbytes for name, p in model.named_parameters() if "proj.weight" in name or "lm_head" in name
    )
    with regrow.prune(model, regrow.Dense(), lay_out=True) as session:
        tokens(model)
        assert session.report().state_bytes == linears
    monkeypatch.setattr(lay_out, "available_memory", lambda: linears - 1)
    with (
        regrow.prune(model, regrow.Dense(), lay_out=True),
        pytest.raises(NoMemoryError, match="a second copy"),
    ):
        tokens(model)
    with regrow.Engine(model, owns_model=True) as engine:
        tokens(model)
        assert engine.session.report().state_bytes == 0
    with regrow.Engine(model, BAP, owns_model=True):  # without enough memory, optional copies are not made
        monkeypatch.setattr(lay_out, "available_memory", lambda: 1)
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


@pytest.mark.parametrize(("method", "way"), spread(METHODS, WAYS))
def test_copies_go_with_their_context(method: Method, way: Way) -> None:
    """Reference counts alone free them: gigabytes must not wait for the garbage collector."""
    model = build()
    gc.disable()
    try:
        with way(model, method) as context:
            tokens(model)
            session = getattr(context, "session", context)
            pruner, network = (
                weakref.ref(session.pruner),
                weakref.ref(vars(model)["generate"]._networks._fused),
            )
        del context, session
        assert pruner() is None
        assert network() is None
    finally:
        gc.enable()
