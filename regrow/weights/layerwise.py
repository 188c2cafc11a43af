"""Prunes a model layer by layer: the inputs of each layer come from the pruned layers before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from regrow.adapter.find import find_ffns
from regrow.adapter.linears import find_linears
from regrow.errors import UsageError
from regrow.weights import WeightPruner


@final
@dataclass(frozen=True)
class _Layer:
    """One decoder layer, and the keyword arguments (mask, positions, ...) that the model passes to it."""

    name: str  # as in model.named_modules()
    module: nn.Module
    keywords: dict[int, dict[str, Any]] = field(default_factory=dict)  # by sequence length T

    def run(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns the output `[1, T, D]` for x `[1, T, D]`.

        `weights` replace the module's own weights of the same names.
        """
        output: Tensor = functional_call(self.module, dict(weights), (x,), self.keywords[x.shape[1]])
        return output


@final
class _Reached(Exception):  # noqa: N818 - not an error
    """Ends a forward pass that was needed only up to the first layer."""


def prune_layers(
    model: PreTrainedModel,
    sequences: Sequence[Tensor],
    start: Callable[[Tensor], WeightPruner],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Returns the pruned weights of all linear layers inside the decoder layers, by their `state_dict` names.

    The model itself does not change. `sequences` are token ids `[T]` of any lengths; each runs as a batch of
    one. `start` makes the pruner of a weight `[out, in]`. `progress(done, layers)` is called after each
    layer.

    Beside the result, memory holds one hidden state `[1, T, D]` per sequence, the pruners of one layer, and
    the masks and positions of each distinct T.

    Raises UsageError for a model that Regrow cannot run or that is more than a chain of decoder layers, and
    if there are no sequences or one is empty or not one-dimensional. Errors of the pruners are passed on.
    """
    # A model that Regrow could not run afterwards is refused before the calibration starts.
    find_linears(model, find_ffns(model))
    decoder, layers = _decoder(model)
    _check(sequences)
    pruned: dict[str, Tensor] = {}
    with torch.no_grad(), _left_as_it_was(model):
        hidden = [_enter(decoder, layers, ids.to(model.device)[None]) for ids in sequences]
        for done, layer in enumerate(layers, start=1):
            weights = _prune_layer(layer, hidden, start)
            pruned |= {f"{layer.name}.{name}": weight for name, weight in weights.items()}
            if done < len(layers):
                for i, x in enumerate(hidden):
                    hidden[i] = layer.run(x, weights)
            if progress is not None:
                progress(done, len(layers))
    return pruned


def _decoder(model: PreTrainedModel) -> tuple[nn.Module, list[_Layer]]:
    if model.training:
        raise UsageError(
            "the model is in training mode, where dropout would distort the calibration; "
            "call model.eval() first"
        )
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    modules = getattr(decoder, "layers", None)
    if not isinstance(modules, nn.ModuleList):
        raise UsageError(
            f"{type(decoder).__name__} has no list of decoder layers, `layers`; "
            "use a model that has one, such as Llama or Qwen"
        )
    names = {module: name for name, module in model.named_modules()}
    return decoder, [_Layer(names[module], module) for module in modules]


def _check(sequences: Sequence[Tensor]) -> None:
    if not sequences:
        raise UsageError("there is no calibration text; give at least one sequence of token ids")
    for i, ids in enumerate(sequences):
        if ids.dim() != 1 or not len(ids):
            raise UsageError(
                f"calibration sequence {i} has the shape {list(ids.shape)}; give token ids [T], at least one"
            )


def _enter(decoder: nn.Module, layers: Sequence[_Layer], ids: Tensor) -> Tensor:
    """Returns the hidden state `[1, T, D]` that the first layer receives for ids `[1, T]`.

    For a new T the whole dense decoder runs. This run records the keyword arguments of the layers and checks
    that each layer receives the output of the previous layer and nothing else.
    """
    length, expected, output = ids.shape[1], iter(layers), None
    entered: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        layer = next(expected, None)
        if (
            layer is None
            or layer.module is not module
            or len(args) != 1
            or (entered and args[0] is not output)
        ):
            raise UsageError(
                f"{type(decoder).__name__} is more than a chain of decoder layers; "
                "use a model such as Llama or Qwen"
            )
        if not entered:
            entered.append(args[0])
            if length in layer.keywords:
                raise _Reached
        layer.keywords[length] = keywords

    def after(*called: Any) -> None:
        nonlocal output
        *_, output = called

    with ExitStack() as hooks, suppress(_Reached):
        for layer in layers:
            hooks.enter_context(layer.module.register_forward_pre_hook(before, with_kwargs=True))
            hooks.enter_context(layer.module.register_forward_hook(after))
        decoder(ids, use_cache=False)
    return entered[0]


def _prune_layer(
    layer: _Layer, hidden: Sequence[Tensor], start: Callable[[Tensor], WeightPruner]
) -> dict[str, Tensor]:
    """Runs the dense layer on every hidden state and returns its pruned weights, by name in the layer."""
    linears = {name: module for name, module in layer.module.named_modules() if isinstance(module, nn.Linear)}
    pruners = {name: start(linear.weight.detach()) for name, linear in linears.items()}
    idle = set(linears)

    def before(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        idle.discard(name)
        pruners[name].add(args[0].flatten(end_dim=-2))

    with ExitStack() as hooks:
        for name, linear in linears.items():
            hooks.enter_context(linear.register_forward_pre_hook(partial(before, name)))
        for x in hidden:
            layer.run(x, {})
    if idle:
        raise UsageError(
            f"{layer.name}.{min(idle)} was never run over the calibration text; "
            "use a model whose linear layers all run"
        )
    return {f"{name}.weight": pruner.prune(f"{layer.name}.{name}") for name, pruner in pruners.items()}


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Restores the attributes of all modules, and the dictionaries among them, when the context ends.

    An interrupt, or a rotary embedding that adapts to the sequence length, may have changed them.
    """
    own = [vars(module) for module in model.modules()]
    kept = [
        (d, dict(d))
        for d in (
            *own,
            *(value for attributes in own for value in attributes.values() if isinstance(value, dict)),
        )
    ]
    try:
        yield
    finally:
        for dictionary, before in kept:
            for key in dictionary.keys() - before.keys():
                del dictionary[key]
            dictionary.update(before)
