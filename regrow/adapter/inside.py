"""What runs inside of the modules that a session stands in for: steps over a part of their weights go around it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from transformers import PreTrainedModel

from regrow.adapter.plain import wrapped
from regrow.errors import UsageError

Forwards = Mapping[nn.Module, Callable[..., Any]]  # of each module, what stands in for its forward


def made_of(model: PreTrainedModel, forwards: Forwards) -> Hashable:
    """Which modules a model has, of which classes, and what the forward is of those that something stands in for: another value tells
    that a part was replaced, also where it shares its weights with the one before."""
    code = tuple(type(part).forward for module in forwards for part in module.modules())
    layers = getattr(model.config, "num_hidden_layers", None)  # that its forward runs
    return tuple((module, type(module)) for module in model.modules()), code, layers


def check_inside(model: nn.Module, forwards: Forwards) -> None:
    """Raises UsageError where a hook, or a forward of somebody else's, would hold in some steps and not in others."""
    for module, forward in forwards.items():
        if vars(module).get("forward") is not forward or module._compiled_call_impl is not None:
            raise UsageError(
                f"{_name(model, module)} was given another forward while it was pruned; leave the `with` before changing it"
            )
        for part in module.modules():
            if part is not module and (reason := wrapped(part)):
                raise UsageError(f"{_name(model, part)} {reason}")
            if part is not module and (
                torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
            ):
                raise UsageError(
                    "a hook on every module would miss those that pruned steps go around; remove it, or hook single modules"
                )


def _name(model: nn.Module, part: nn.Module) -> str:
    found = next((name for name, module in model.named_modules() if module is part), None)
    return (
        f"{found} ({type(part).__name__})"
        if found
        else f"a {type(part).__name__} that was a part of the model"
    )
