"""Checks that a model, and all code its forward runs, is what transformers ships: not replaced, not hooked.

The checks are cheap enough to run before every batch (a few milliseconds for 28 layers). So a change between
two batches is noticed, and a change that is undone no longer counts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from transformers import AttentionInterface, PreTrainedModel, cache_utils, masking_utils
from transformers.integrations import sdpa_attention
from transformers.masking_utils import AttentionMaskInterface

from regrow.adapter.shipped import class_is_shipped, functions_are_shipped, is_shipped

# The functions that transformers registers under each name: for attention, and for the mask. Eager attention
# is not registered, because every modeling module has its own.
_FLASH: Final = ("flash_attention_forward", "flash_attention_mask")
_REGISTERED: Final = {
    "eager": (None, "eager_mask"),
    "sdpa": ("sdpa_attention_forward", "sdpa_mask"),
    "flex_attention": ("flex_attention_forward", "flex_attention_mask"),
    **dict.fromkeys(("flash_attention_2", "flash_attention_3", "flash_attention_4"), _FLASH),
}
_CACHES: Final = (
    cache_utils.DynamicCache,
    cache_utils.DynamicLayer,
    AttentionInterface,
    AttentionMaskInterface,
)
_TORCH: Final = (
    (torch, ("cat", "matmul", "rsqrt", "sigmoid", "softmax")),
    (torch.nn.functional, ("embedding", "linear", "scaled_dot_product_attention", "silu", "softmax")),
)
_OURS: Final = f"{Path(__file__).parents[1]}{os.sep}"

_METHODS: Final[WeakKeyDictionary[type, frozenset[str]]] = WeakKeyDictionary()


def pristine(model: PreTrainedModel) -> bool:
    """Returns True if a call of this model runs only transformers' and torch's own code, and our patches."""
    modules = list(model.modules())
    kinds = {type(module) for module in modules}
    return (
        not _is_observed()
        and all(map(_is_plain, modules))
        and all(map(class_is_shipped, (*kinds, *_CACHES)))
        and all(functions_are_shipped(module, names) for module, names in _TORCH)
        and all(map(functions_are_shipped, (masking_utils, sdpa_attention)))
        and all(
            _attends_as_shipped(model.config._attn_implementation, modeling)
            for modeling in _modeling_modules(kinds)
        )
    )


def structure(model: PreTrainedModel) -> Hashable:
    """Returns everything that decides what the model computes, except its weights.

    Models with equal values compute the same function of their weights. Buffers of at most 4096 elements
    (such as rotary frequencies) count with their values.
    """
    modules = tuple((type(module), *_settings(module)) for module in model.modules())
    weights = tuple((p.shape, p.dtype, p.device) for p in model.parameters())
    buffers = tuple((b.dtype, *b.flatten().tolist()) for b in model.buffers() if b.numel() <= 4096)
    return modules, weights, buffers, repr(sorted(vars(model.config).items(), key=lambda item: item[0]))


def replaced_loop(model: PreTrainedModel) -> str | None:
    """Returns the name of a method of transformers' decode loop that was replaced; None if none was.

    Both the model and its class are checked.
    """
    parts = ("_sample", "_prefill", "_has_unfinished_sequences")
    return next((name for name in parts if not _has_shipped(model, name)), None)


def prepares_its_own_inputs(model: PreTrainedModel) -> bool:
    """Returns True if the model or its class prepares the inputs of the next forward in its own way."""
    parts = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
    return not all(_has_shipped(model, name) for name in parts)


def has_class_methods(thing: object) -> bool:
    """Returns True if no method was replaced on this instance."""
    return _methods(type(thing)).isdisjoint(vars(thing))


def _has_shipped(model: PreTrainedModel, name: str) -> bool:
    return name not in vars(model) and is_shipped(getattr(type(model), name), None)


def _is_observed() -> bool:
    """Returns True if something observes every module call or every operation.

    An observer has to see the model's own calls. A default device is such a mode too, but it only
    affects new tensors, so it does not count.
    """
    stack: list[object] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    modes = [mode for mode in stack if not isinstance(mode, DeviceContext)]
    hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return bool(modes or _get_current_dispatch_mode_stack() or any(hooks))


def _is_plain(module: nn.Module) -> bool:
    """Returns True if a call of the module runs its class's forward, in evaluation mode.

    No hook, no compiled call and no replaced method may be in the way, except for ours. A replaced `generate`
    is allowed, because it calls the forward and is not called by it.
    """
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._compiled_call_impl is not None
        or module.training
    ):
        return False
    own = vars(module)
    return all(name == "generate" or _is_ours(own[name]) for name in _methods(type(module)).intersection(own))


def _methods(kind: type) -> frozenset[str]:
    if kind not in _METHODS:
        _METHODS[kind] = frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))
    return _METHODS[kind]


def _is_ours(value: Any) -> bool:
    function = getattr(value, "func", value)  # unwraps a partial
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    file = (
        getattr(sys.modules[type(value).__module__], "__file__", None) if code is None else code.co_filename
    )
    return str(file).startswith(_OURS)


def _modeling_modules(kinds: Iterable[type]) -> set[ModuleType]:
    """Returns the modeling modules that define the classes."""
    names = {kind.__module__ for kind in kinds if kind.__module__.startswith("transformers.models.")}
    return {sys.modules[name] for name in names}


def _attends_as_shipped(implementation: str, modeling: ModuleType) -> bool:
    """Returns True if a modeling module's functions are transformers' own.

    The attention and mask functions that it looks up have to be transformers' own too.
    """
    attentions: Any = getattr(modeling, "ALL_ATTENTION_FUNCTIONS", None)
    masks: Any = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    known = (
        implementation in _REGISTERED
        and type(attentions) is AttentionInterface
        and type(masks) is AttentionMaskInterface
    )
    if not known or getattr(modeling, "torch", torch) is not torch or getattr(modeling, "nn", nn) is not nn:
        return False
    attention, mask = _REGISTERED[implementation]
    registered = attentions.get(implementation)
    same = (
        registered is None
        if attention is None
        else callable(registered) and is_shipped(registered, attention)
    )
    return same and is_shipped(masks[implementation], mask) and functions_are_shipped(modeling)


def _settings(module: nn.Module) -> Iterable[Hashable]:
    """Returns the plain attributes of a module, which its forward may read."""
    return ((name, value) for name, value in vars(module).items() if type(value) in (bool, int, float, str))
