"""Changes of modules, hooks and forwards in an open context.

The next batch gives the result of a fresh context, or raises UsageError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from families import build
from regrow.errors import UsageError
from regrow.method.base import Method

BATCH = prompts(3, seed=4)
METHODS: list[Method] = [
    regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4),
    regrow.Magnitude(sparsity=0.5),
    regrow.EveryToken(sparsity=0.5),
    regrow.WINA(sparsity=0.5, selection="topk"),
]
PRUNED = METHODS[0]


def mlp(model: Any, layer: int = 1) -> Any:
    return model.model.layers[layer].mlp


class Negated(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return -weight


class Scaled(nn.Module):
    """A module that wraps the original one and uses its weights."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.inner(x)


class TakesOver(nn.Module):
    """An FFN that uses the linear layers of another FFN."""

    scale = 1

    def __init__(self, ffn: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            ffn.gate_proj,
            ffn.up_proj,
            ffn.down_proj,
            ffn.act_fn,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class TakesOverAndScales(TakesOver):
    scale = 3


class TwiceAsLarge(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def another_ffn(model: Any) -> None:
    torch.manual_seed(2)
    new = type(mlp(model))(model.config)
    for parameter in new.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.model.layers[1].mlp = new.eval()


def an_ffn_around(model: Any) -> None:
    model.model.layers[1].mlp = Scaled(mlp(model)).eval()


def an_ffn_of_the_same_linears(model: Any) -> None:
    model.model.layers[1].mlp = TakesOver(mlp(model)).eval()
    mlp(model, 0).down_proj.weight.data.neg_()


def an_ffn_of_the_same_linears_alone(model: Any) -> None:
    model.model.layers[1].mlp = TakesOver(mlp(model)).eval()


def an_ffn_of_the_same_linears_that_scales(model: Any) -> None:
    model.model.layers[1].mlp = TakesOverAndScales(mlp(model)).eval()


def another_activation(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.ReLU()


def a_linear_around(model: Any) -> None:
    mlp(model).down_proj = Scaled(mlp(model).down_proj)


def a_linear_of_another_class(model: Any) -> None:
    mlp(model).gate_proj.__class__ = TwiceAsLarge


def a_parametrized_weight(model: Any) -> None:
    parametrize.register_parametrization(mlp(model).down_proj, "weight", Negated())


def a_weight_norm(model: Any) -> None:
    nn.utils.weight_norm(mlp(model).up_proj)
    mlp(model).up_proj.weight_g.data *= 2


def ffns_swapped(model: Any) -> None:
    first, second = mlp(model, 0), mlp(model, 1)
    model.model.layers[0].mlp, model.model.layers[1].mlp = second, first


def layers_swapped(model: Any) -> None:
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]


def a_layer_fewer(model: Any) -> None:
    model.model.layers = model.model.layers[:1]


def fewer_layers_in_the_config(model: Any) -> None:
    model.config.num_hidden_layers = 1


def a_bias_more(model: Any) -> None:
    mlp(model).up_proj.bias = nn.Parameter(torch.linspace(-2, 2, 64))


def a_bias_fewer(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj.bias = None


def a_value_linear_around(model: Any) -> None:
    attention = model.model.layers[0].self_attn
    attention.v_proj = Scaled(attention.v_proj)


CHANGES = [
    another_ffn,
    an_ffn_around,
    an_ffn_of_the_same_linears,
    an_ffn_of_the_same_linears_alone,
    an_ffn_of_the_same_linears_that_scales,
    another_activation,
    a_linear_around,
    a_linear_of_another_class,
    a_parametrized_weight,
    a_weight_norm,
    ffns_swapped,
    layers_swapped,
    a_layer_fewer,
    fewer_layers_in_the_config,
    a_bias_more,
    a_bias_fewer,
    a_value_linear_around,
]


def pruned_answer(model: PreTrainedModel, session: regrow.Session) -> Any:
    tokens = model.generate(**arguments(BATCH)).tolist()
    return tokens, session.report().weights_kept, session.report().weights_dense


def or_sentence(ask: Callable[[], Any]) -> Any:
    """Return the result of `ask`, or the number of lines of its UsageError."""
    try:
        return ask()
    except UsageError as error:
        return f"refused in {len(str(error).splitlines())} line"


def afresh(model: PreTrainedModel, method: Method) -> Any:
    with regrow.prune(model, method) as session:
        return pruned_answer(model, session)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_batch_after_a_change_is_that_of_a_fresh_context(
    method: Method, change: Callable[[Any], None]
) -> None:
    model = build("qwen2")
    with regrow.prune(model, method) as session:
        pruned_answer(model, session)
        change(model)
        after = or_sentence(lambda: pruned_answer(model, session))
    wanted = or_sentence(lambda: afresh(model, method))
    assert after == wanted


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_dense_batch_after_a_change_is_that_of_stock_transformers(change: Callable[[Any], None]) -> None:
    model = build("qwen2")
    with regrow.prune(model, regrow.Dense()):
        model.generate(**arguments(BATCH))
        change(model)
        ours = model.generate(**arguments(BATCH))
    assert torch.equal(ours, model.generate(**arguments(BATCH)))


# Hooks and forwards


def post(module: Any) -> Any:
    return module.register_forward_hook(lambda _, __, y: -y)


def pre(module: Any) -> Any:
    return module.register_forward_pre_hook(lambda _, given: (-given[0],))


@pytest.mark.parametrize("hook", [post, pre])
@pytest.mark.parametrize("part", ["gate_proj", "up_proj", "down_proj", "act_fn"])
@pytest.mark.parametrize("when", ["before", "within"])
def test_a_hook_inside_of_a_pruned_ffn_is_refused(part: str, hook: Callable[[Any], Any], when: str) -> None:
    """Sparse steps do not call the modules inside an FFN, so the hook would not run in them."""
    model = build("llama")
    if when == "before":
        hook(mlp(model).get_submodule(part))
        with (
            pytest.raises(UsageError, match=rf"layers\.1\.mlp\.{part}.* carries forward hooks"),
            regrow.prune(model, PRUNED),
        ):
            pass
        return
    with regrow.prune(model, PRUNED):
        want = model.generate(**arguments(BATCH))
        handle = hook(mlp(model).get_submodule(part))
        with pytest.raises(UsageError, match=rf"layers\.1\.mlp\.{part}.* carries forward hooks"):
            model.generate(**arguments(BATCH))
        handle.remove()
        assert torch.equal(model.generate(**arguments(BATCH)), want)


@pytest.mark.parametrize("hook", [post, pre])
@pytest.mark.parametrize("part", ["gate_proj", "up_proj", "down_proj", "act_fn", ""])
def test_where_nothing_is_pruned_it_is_called_as_in_stock_transformers(
    part: str, hook: Callable[[Any], Any]
) -> None:
    model = build("llama")
    with regrow.prune(model, regrow.BatchwiseAdaptive(sparsity=0)):
        model.generate(**arguments(BATCH))
        hook(mlp(model).get_submodule(part))
        ours = model.generate(**arguments(BATCH))
    assert torch.equal(ours, model.generate(**arguments(BATCH)))


def test_a_hook_on_a_whole_ffn_is_called_in_every_step() -> None:
    model, calls = build("llama"), []
    with regrow.prune(model, PRUNED) as session:
        mlp(model).register_forward_hook(lambda _, __, y: calls.append(1))
        want = model.generate(**arguments(BATCH))
        report = session.report()
        assert len(calls) == 20
        mlp(model).register_forward_hook(lambda _, __, y: -y)
        assert not torch.equal(model.generate(**arguments(BATCH)), want)
    assert report.sparse_steps > 0


def test_a_hook_on_every_module_is_refused_where_steps_go_around_some() -> None:
    model = build("llama")
    with regrow.prune(model, PRUNED):
        want = model.generate(**arguments(BATCH))
        handle = register_module_forward_hook(
            lambda module, _, y: -y if module is mlp(model).down_proj else None
        )
        try:
            with pytest.raises(UsageError, match="a hook on every module would miss"):
                model.generate(**arguments(BATCH))
        finally:
            handle.remove()
        assert torch.equal(model.generate(**arguments(BATCH)), want)


@pytest.mark.parametrize("part", ["mlp", "mlp.gate_proj", "mlp.down_proj", "mlp.act_fn"])
def test_another_forward_of_a_pruned_ffn_is_refused(part: str) -> None:
    model = build("llama")
    with regrow.prune(model, PRUNED):
        want = model.generate(**arguments(BATCH))
        module = model.model.layers[1].get_submodule(part)
        own = vars(module).get("forward")
        module.forward = lambda x: 0 * x
        with pytest.raises(UsageError, match=rf"layers\.1\.{part}.* forward"):
            model.generate(**arguments(BATCH))
        del module.forward
        if own is not None:
            module.forward = own
        assert torch.equal(model.generate(**arguments(BATCH)), want)


def test_another_forward_of_the_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed although the patched forward of the instance hides it."""
    model = build("llama")
    with regrow.prune(model, PRUNED):
        model.generate(**arguments(BATCH))
        monkeypatch.setattr(type(mlp(model)), "forward", lambda self, x: 0 * x)
        with pytest.raises(UsageError, match="computes something else"):
            model.generate(**arguments(BATCH))


def test_a_compiled_ffn_within_is_refused() -> None:
    model = build("llama")
    with regrow.prune(model, PRUNED):
        model.generate(**arguments(BATCH))
        mlp(model).compile()
        with pytest.raises(UsageError, match="another forward while it was pruned"):
            model.generate(**arguments(BATCH))


# In the middle of a generation


def hooking(where: Any, hook: Callable[[Any], Any], at: int, handles: list[Any]) -> Callable[..., Tensor]:
    """Return a stopping criterion that registers a hook after `at` tokens."""
    calls: list[int] = []

    def call(input_ids: Tensor, _: Any, **__: Any) -> Tensor:
        calls.append(1)
        if len(calls) == at:
            handles.append(hook(where))
        return torch.zeros(len(input_ids), dtype=torch.bool)

    return call


@pytest.mark.parametrize(("at", "hook"), [(1, post), (8, pre)])
@pytest.mark.parametrize(
    "part", ["mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj", "self_attn.o_proj", "input_layernorm"]
)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("method", [regrow.Dense(), PRUNED], ids=lambda method: method.name)
def test_a_hook_in_the_middle_is_called_from_then_on_or_refused(
    family: str, method: Method, part: str, hook: Callable[[Any], Any], at: int
) -> None:
    model, handles = build(family), list[Any]()
    where = model.model.layers[1].get_submodule(part)
    stock = model.generate(**arguments(BATCH), stopping_criteria=[hooking(where, hook, at, handles)])
    handles.pop().remove()
    with regrow.prune(model, method):
        want = model.generate(**arguments(BATCH))
        made = or_sentence(
            lambda: model.generate(**arguments(BATCH), stopping_criteria=[hooking(where, hook, at, handles)])
        )
        handles.pop().remove()
        if family == "llama" or (method is PRUNED and part.startswith("mlp")):
            assert made == "refused in 1 line"
        elif method is PRUNED:
            assert not torch.equal(made, want)
        else:
            assert torch.equal(made, stock)
        assert torch.equal(model.generate(**arguments(BATCH)), want)


def test_a_hook_on_another_model_in_the_middle_disturbs_nothing() -> None:
    model, handles = build("llama"), list[Any]()
    with regrow.prune(model, PRUNED):
        want = model.generate(**arguments(BATCH))
        assert torch.equal(
            model.generate(
                **arguments(BATCH), stopping_criteria=[hooking(nn.Linear(2, 2), post, 4, handles)]
            ),
            want,
        )
    assert handles
