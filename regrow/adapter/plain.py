"""Checks that modules are ordinary: own forward, ordinary weights, no hooks and no wrappers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OwnForward:
    """A forward of Regrow's that gives the same result as the module's own.

    A module that has one does not count as wrapped.
    """

    def gating(self, up: nn.Module) -> Callable[[Tensor], Tensor] | None:  # noqa: ARG002
        """Returns act(this layer of x) * up(x) as one call; None if there is no such call now."""
        return None


def has_other_forward(module: nn.Module) -> bool:
    """Returns True if the module runs another forward than its class's, except for an `OwnForward`."""
    return "forward" in vars(module) and not isinstance(vars(module)["forward"], OwnForward)


def wrapped(module: nn.Module) -> str | None:
    """Returns why a call of the module does more than its class's forward, or None if it does not.

    Reasons are hooks, a replaced forward, compilation, and placement by accelerate. The text completes a
    sentence that begins with the module's name, such as "carries forward hooks; remove them first".
    """
    if "_hf_hook" in vars(module):
        return (
            "is placed by accelerate (offloaded, or spread over devices); "
            "load the whole model onto one device"
        )
    if has_other_forward(module):
        return "has had its forward replaced; leave the pruning session (or undo the patch) that did it first"
    if module._forward_hooks or module._forward_pre_hooks:
        return "carries forward hooks; remove them first"
    if module._compiled_call_impl is not None:
        return (
            "is compiled, so a change of its forward would not be seen; compile after pruning, or not at all"
        )
    return None


def odd_linear(linear: object) -> str | None:
    """Returns why this is no linear layer with ordinary weights, with the remedy; None if it is one.

    The `weight` of a wrapper may be misleading: peft shows that of its base layer, bitsandbytes packed bytes.
    """
    if not isinstance(linear, nn.Module):
        return (
            f"is a {_kind(linear)} instead of a torch.nn.Linear; "
            "use a model with one gated FFN of linear layers per decoder layer"
        )
    if reason := wrapped(linear):
        return reason
    if hasattr(linear, "base_layer"):
        return (
            "carries an adapter (LoRA or alike); "
            "merge it into the weights first, with model = model.merge_and_unload()"
        )
    if type(linear) is not nn.Linear:
        return (
            f"is a {_kind(linear)} instead of a plain torch.nn.Linear; "
            "load the model without quantisation or wrappers"
        )
    for name, parameter in (("weight", linear.weight), ("bias", linear.bias)):
        if parameter is not None and (reason := odd_parameter(name, parameter)):
            return reason
    return None


def odd_parameter(name: str, parameter: object) -> str | None:
    """Returns why this is no ordinary weight, with the remedy; None if it is one."""
    # A tensor subclass keeps its type inside nn.Parameter (torchao, DTensor), so the exact type is compared.
    if type(parameter) is not nn.Parameter:
        return (
            f"has a {_kind(parameter)} as its {name} (quantised or sharded); "
            "load the model with ordinary weights"
        )
    if parameter.is_meta:
        return (
            f"has no {name} in memory (meta device: offloaded or never loaded); "
            "load the whole model onto one device"
        )
    if parameter.dtype not in DTYPES:
        return (
            f"stores its {name} as {parameter.dtype} (packed or quantised); "
            "load the model in bfloat16, float16 or float32"
        )
    return None


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
