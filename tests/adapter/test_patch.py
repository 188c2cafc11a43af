"""A patch changes one attribute of one instance, and restoring it leaves no difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from copies import deep, pickled, saved, sent, shallow
from families import FAMILIES, VOCABULARY, build
from regrow.adapter.patch import Patch

IDS = torch.arange(3, 15).reshape(2, 6) % VOCABULARY


def _attributes(model: nn.Module) -> list[tuple[str, list[tuple[str, int]]]]:
    """Returns every instance attribute of every module: name, order and identity of the value."""
    return [
        (name, [(key, id(value)) for key, value in vars(module).items()])
        for name, module in model.named_modules()
    ]


def _logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def _mlps(model: PreTrainedModel) -> list[nn.Module]:
    return [layer.mlp for layer in model.model.layers]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    model = build(request.param)
    _logits(model)  # transformers sets a few attributes on the first call
    return model


def test_replaces_one_instance_and_leaves_no_trace(model: PreTrainedModel) -> None:
    attributes, logits, state = (
        _attributes(model),
        _logits(model),
        {key: value.clone() for key, value in model.state_dict().items()},
    )
    with Patch() as patch:
        first, second = _mlps(model)
        patch.replace(first, "forward", torch.zeros_like)
        assert torch.equal(first(torch.ones(2, 32)), torch.zeros(2, 32))
        assert second(torch.ones(2, 32)).any()
        assert not torch.equal(_logits(model), logits)
        assert list(model.state_dict()) == list(state)
    assert _attributes(model) == attributes
    assert torch.equal(_logits(model), logits)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_undoes_after_an_exception(model: PreTrainedModel) -> None:
    attributes, logits = _attributes(model), _logits(model)

    def fails(x: Tensor) -> Tensor:
        raise KeyError("in a forward")

    def run() -> None:
        with Patch() as patch:
            for mlp in _mlps(model):
                patch.replace(mlp, "forward", fails)
            _logits(model)

    with pytest.raises(KeyError, match="in a forward"):
        run()
    assert _attributes(model) == attributes
    assert torch.equal(_logits(model), logits)


def test_a_tensor_or_module_never_enters_the_state_dict() -> None:
    module = nn.Linear(2, 2)
    before = list(module.state_dict())
    with Patch() as patch:
        patch.replace(module, "compact", nn.Parameter(torch.ones(2)))
        patch.replace(module, "inner", nn.Linear(2, 2))
        assert list(module.state_dict()) == before
        assert [name for name, _ in module.named_modules()] == [""]


class Plain:
    value: object = "of the class"


def test_puts_back_the_same_object_or_its_absence() -> None:
    empty, full = Plain(), Plain()
    own: list[int] = []
    full.value = own
    with Patch() as patch:
        patch.replace(empty, "value", "new")
        patch.replace(full, "value", "new")
        assert (empty.value, full.value) == ("new", "new")
    assert vars(empty) == {}
    assert full.value is own


def test_none_is_a_value_and_not_absence() -> None:
    thing = Plain()
    thing.value = None
    with Patch() as patch:
        patch.replace(thing, "value", "new")
    assert vars(thing) == {"value": None}


def test_undoes_in_reverse_order_and_only_once() -> None:
    thing, patch = Plain(), Patch()
    thing.value = "old"
    patch.replace(thing, "value", "first")
    patch.replace(thing, "value", "second")
    patch.restore()
    assert thing.value == "old"
    thing.value = "later"
    patch.restore()
    assert thing.value == "later"


def test_an_attribute_deleted_meanwhile_stays_away() -> None:
    thing, patch = Plain(), Patch()
    patch.replace(thing, "value", "new")
    del thing.value
    patch.restore()
    assert vars(thing) == {}


class Guarded:
    @property
    def value(self) -> str:
        return "of the property"


class Slotted:
    __slots__ = ("value",)


@pytest.mark.parametrize("kind", [Guarded, Slotted])
def test_refuses_what_an_instance_attribute_cannot_replace(kind: Callable[[], object]) -> None:
    thing = kind()
    with Patch() as patch, pytest.raises(TypeError):
        patch.replace(thing, "value", "new")
    assert getattr(thing, "__dict__", {}) == {}


COPIES = [shallow, deep, pickled, saved, sent]


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_patched_object_is_a_copy_of_the_original(way: Callable[[Any], Any]) -> None:
    plain, module = Plain(), nn.Linear(2, 2)
    plain.value = "old"
    weight = module.weight
    with Patch() as patch:
        patch.replace(plain, "value", lambda: "cannot be pickled")
        patch.replace(plain, "value", "twice")
        patch.replace(module, "forward", lambda x: x)
        patch.replace_parameter(module, "weight", nn.Parameter(torch.zeros(2, 2)))
        patch.replace(module, "another", "new")
        within = dict(vars(module))
        thing, other = way(plain), way(module)
        assert vars(thing) == {"value": "old"}
        assert list(vars(other)) == list(vars(nn.Linear(2, 2)))
        assert torch.equal(other.weight, weight)
        assert torch.equal(other(torch.eye(2)), torch.nn.functional.linear(torch.eye(2), weight, module.bias))
        assert vars(module) == within  # the patched one stays patched
        assert not module.weight.any()
    assert list(vars(module)) == list(vars(other))
    assert module.weight is weight


def test_a_parameter_is_moved_with_its_module() -> None:
    module = nn.Linear(2, 2)
    weight = module.weight
    with Patch() as patch:
        patch.replace_parameter(module, "weight", nn.Parameter(torch.zeros(2, 2)))
        module.to(torch.float64)
    assert module.weight is weight
    assert (weight.dtype, module.bias.dtype) == (torch.float64, torch.float64)
    with Patch() as patch:
        patch.replace_parameter(module, "weight", nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)))
        address = weight.data_ptr()
    assert weight.data_ptr() == address  # nothing is copied where nothing was moved


class WithState(Plain):
    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "extra": 1}


class Elsewhere(Plain):
    def __getstate__(self) -> tuple[int, ...]:
        return (1, 2)

    def __setstate__(self, state: tuple[int, ...]) -> None:
        self.value = state


@pytest.mark.parametrize("way", COPIES)
def test_a_class_that_makes_its_own_state_is_asked(way: Callable[[Any], Any]) -> None:
    thing, other = WithState(), Elsewhere()
    with Patch() as patch:
        patch.replace(thing, "value", "new")
        patch.replace(other, "value", "new")
        assert vars(way(thing)) == {"extra": 1}
        assert way(other).value == (1, 2)


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_part_of_a_model_shares_nothing_with_the_patch(
    way: Callable[[Any], Any], model: PreTrainedModel
) -> None:
    logits = _logits(model)
    with Patch() as patch:
        for mlp in _mlps(model):
            patch.replace(mlp, "forward", torch.zeros_like)
        other = way(_mlps(model)[0])
        assert "forward" not in vars(other)
        assert "forward" in vars(_mlps(model)[0])
    assert torch.equal(_logits(model), logits)
