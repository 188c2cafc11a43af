"""Whether a model, and all that its forward goes through, is what transformers ships: nothing replaced, hooked or registered.

These questions are cheap enough to be asked before every batch (a few milliseconds for 28 layers), so that a change made
between two batches is seen, and one that is undone is forgotten.
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

# What transformers registers under each name: the attention function, the mask function. Eager attention is not
# registered: every modeling module has one of its own.
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
    """Whether a call of this model runs the code that transformers and torch ship for it, and our patches, and no other."""
    modules = list(model.modules())
    kinds = {type(module) for module in modules}
    return (
        not _watched()
        and all(map(_is_plain, modules))
        and all(map(class_is_shipped, (*kinds, *_CACHES)))
        and all(functions_are_shipped(module, names) for module, names in _TORCH)
        and all(map(functions_are_shipped, (masking_utils, sdpa_attention)))
        and all(_attends_as_shipped(model.config._attn_implementation, home) for home in _homes(kinds))
    )


def structure(model: PreTrainedModel) -> Hashable:
    """All that decides what the model computes but for its weights: equal values mean the same function of the weights.

    Buffers (a rotary embedding's frequencies) are weights in name only: their values are a part of it.
    """
    modules = tuple((type(module), *_settings(module)) for module in model.modules())
    weights = tuple((p.shape, p.dtype, p.device) for p in model.parameters())
    buffers = tuple((b.dtype, *b.flatten().tolist()) for b in model.buffers() if b.numel() <= 4096)
    return modules, weights, buffers, repr(sorted(vars(model.config).items(), key=lambda item: item[0]))


def replaced_loop(model: PreTrainedModel) -> str | None:
    """The part of transformers' decode loop that was replaced on this model or on its class, if one was."""
    parts = ("_sample", "_prefill", "_has_unfinished_sequences")
    return next((name for name in parts if not _has_shipped(model, name)), None)


def prepares_its_own_inputs(model: PreTrainedModel) -> bool:
    """Whether what turns ids into the inputs of the next forward was replaced on this model or on its class."""
    parts = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
    return not all(_has_shipped(model, name) for name in parts)


def has_class_methods(thing: object) -> bool:
    """Whether no method was replaced on this one object."""
    return _methods(type(thing)).isdisjoint(vars(thing))


def _has_shipped(model: PreTrainedModel, name: str) -> bool:
    return name not in vars(model) and is_shipped(getattr(type(model), name), None)


def _watched() -> bool:
    """Whether something sees every call of a module, or every operation: it should see those of the model itself.

    A default device is such a mode too, and concerns new tensors only.
    """
    stack: list[object] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    modes = [mode for mode in stack if not isinstance(mode, DeviceContext)]
    hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return bool(modes or _get_current_dispatch_mode_stack() or any(hooks))


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is a call of its class's forward: no hook, nothing compiled, no method of its own but ours.

    `generate` is what calls all the rest.
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
    function = getattr(value, "func", value)  # of a partial
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    file = (
        getattr(sys.modules[type(value).__module__], "__file__", None) if code is None else code.co_filename
    )
    return str(file).startswith(_OURS)


def _homes(kinds: Iterable[type]) -> set[ModuleType]:
    """The modeling modules that the classes come from."""
    names = {kind.__module__ for kind in kinds if kind.__module__.startswith("transformers.models.")}
    return {sys.modules[name] for name in names}


def _attends_as_shipped(implementation: str, home: ModuleType) -> bool:
    """Whether a modeling module's functions, and the attention and mask functions it looks up, are transformers' own."""
    attentions: Any = getattr(home, "ALL_ATTENTION_FUNCTIONS", None)
    masks: Any = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    known = (
        implementation in _REGISTERED
        and type(attentions) is AttentionInterface
        and type(masks) is AttentionMaskInterface
    )
    if not known or getattr(home, "torch", torch) is not torch or getattr(home, "nn", nn) is not nn:
        return False
    attention, mask = _REGISTERED[implementation]
    registered = attentions.get(implementation)
    same = (
        registered is None
        if attention is None
        else callable(registered) and is_shipped(registered, attention)
    )
    return same and is_shipped(masks[implementation], mask) and functions_are_shipped(home)


def _settings(module: nn.Module) -> Iterable[Hashable]:
    """The plain attributes of a module, which its forward may read."""
    return ((name, value) for name, value in vars(module).items() if type(value) in (bool, int, float, str))
