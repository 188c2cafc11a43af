"""Checks the modules inside patched modules, whose forwards pruned steps bypass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from transformers import PreTrainedModel

from regrow.adapter.plain import wrapped
from regrow.errors import UsageError

Forwards = Mapping[nn.Module, Callable[..., Any]]  # patched module -> the forward that replaces its own


def made_of(model: PreTrainedModel, forwards: Forwards) -> Hashable:
    """Returns a value that changes if a part of the model is replaced, even by one with the same weights.

    It holds every module with its class, the class forwards of all parts of the patched modules, and the
    number of layers.
    """
    code = tuple(type(part).forward for module in forwards for part in module.modules())
    layers = getattr(model.config, "num_hidden_layers", None)  # the model's forward stops there
    return tuple((module, type(module)) for module in model.modules()), code, layers


def check_inside(model: nn.Module, forwards: Forwards) -> None:
    """Raises UsageError if a hook or a foreign forward would take effect in some steps only."""
    for module, forward in forwards.items():
        if vars(module).get("forward") is not forward or module._compiled_call_impl is not None:
            raise UsageError(
                f"{_name(model, module)} was given another forward while it was pruned; "
                "leave the `with` before changing it"
            )
        for part in module.modules():
            if part is not module and (reason := wrapped(part)):
                raise UsageError(f"{_name(model, part)} {reason}")
            if part is not module and (
                torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
            ):
                raise UsageError(
                    "a hook on every module would miss the modules that pruned steps bypass; "
                    "remove it, or hook single modules"
                )


def _name(model: nn.Module, part: nn.Module) -> str:
    found = next((name for name, module in model.named_modules() if module is part), None)
    return (
        f"{found} ({type(part).__name__})" if found else f"a {type(part).__name__} that was part of the model"
    )
