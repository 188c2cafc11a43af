"""Ways to make a Llama compute something else than its class says.

Each change alters the tokens generated from `batches.prompts`. Changes with `_late` show after LATE tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface, cache_utils, masking_utils
from transformers.generation import GenerationMixin
from transformers.integrations import sdpa_attention
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaRMSNorm,
)

LATE = 6  # a late change shows only beyond this number of tokens

Patch = pytest.MonkeyPatch
Change = Callable[[Any, Patch, ExitStack], object]


def _late(function: Any, position: int = 0) -> Any:
    """Wraps a function: triples its argument at `position` if that has more than LATE tokens (axis -2)."""

    @functools.wraps(function)
    def changed(*args: Any, **kwargs: Any) -> Any:
        scale = 3 if args[position].shape[-2] > LATE else 1
        return function(*args[:position], scale * args[position], *args[position + 1 :], **kwargs)

    return changed


def _negated(function: Any) -> Any:
    """Wraps a function: negates its first result. The wrapper has the name and docstring of the function."""

    @functools.wraps(function)
    def changed(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return (-result[0], *result[1:]) if isinstance(result, tuple) else -result

    return changed


def _attention(model: Any) -> Any:
    return model.model.layers[0].self_attn


SDPA = sdpa_attention.sdpa_attention_forward


# Attention functions and what they look up


def registered_attention(model: Any, patch: Patch, stack: ExitStack) -> None:
    patch.setitem(AttentionInterface._global_mapping, "late", _late(SDPA, 2))
    patch.setitem(AttentionMaskInterface._global_mapping, "late", masking_utils.sdpa_mask)
    stack.callback(model.set_attn_implementation, model.config._attn_implementation)
    model.set_attn_implementation("late")


def sdpa_replaced_in_the_registry(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setitem(modeling_llama.ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", _late(SDPA, 2))


def sdpa_registered_anew(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setitem(AttentionInterface._global_mapping, "sdpa", _late(SDPA, 2))


def another_registry(_: Any, patch: Patch, __: ExitStack) -> None:
    registry = AttentionInterface()
    registry["sdpa"] = functools.partial(_late(SDPA, 2))
    patch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", registry)


def eager_attention_registered(model: Any, patch: Patch, stack: ExitStack) -> None:
    stack.callback(model.set_attn_implementation, model.config._attn_implementation)
    model.set_attn_implementation("eager")
    patch.setitem(
        AttentionInterface._global_mapping, "eager", _late(modeling_llama.eager_attention_forward, 2)
    )


def eager_attention_replaced(model: Any, patch: Patch, stack: ExitStack) -> None:
    stack.callback(model.set_attn_implementation, model.config._attn_implementation)
    model.set_attn_implementation("eager")
    patch.setattr(modeling_llama, "eager_attention_forward", _late(modeling_llama.eager_attention_forward, 2))


def keys_repeated_otherwise(model: Any, patch: Patch, stack: ExitStack) -> None:
    stack.callback(model.set_attn_implementation, model.config._attn_implementation)
    model.set_attn_implementation("eager")
    patch.setattr(modeling_llama, "repeat_kv", _late(modeling_llama.repeat_kv))


def keys_repeated_otherwise_in_sdpa(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(sdpa_attention, "repeat_kv", _late(sdpa_attention.repeat_kv))


def torch_attention_replaced(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        _late(nn.functional.scaled_dot_product_attention, 1),
    )


def rotation_replaced(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(modeling_llama, "apply_rotary_pos_emb", _negated(modeling_llama.apply_rotary_pos_emb))


def half_rotation_of_another_model(_: Any, patch: Patch, __: ExitStack) -> None:
    # Cohere's function has the same name, and is transformers' own, but interleaves.
    patch.setattr(modeling_llama, "rotate_half", modeling_cohere.rotate_half)


def half_rotation_replaced(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(modeling_llama, "rotate_half", lambda x: torch.roll(x, x.shape[-1] // 2, dims=-1))


def mask_function_replaced(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setitem(masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._local_mapping, "sdpa", _sees_every_other)


def mask_made_otherwise(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(
        modeling_llama, "create_causal_mask", functools.partial(_made_by, modeling_llama.create_causal_mask)
    )


def _sees_every_other(*args: Any, **kwargs: Any) -> Tensor:
    kwargs["allow_is_causal_skip"] = False
    return _every_other(masking_utils.sdpa_mask(*args, **kwargs))


def _made_by(made: Any, *args: Any, **kwargs: Any) -> Tensor:
    return _every_other(made(*args, **kwargs))


def _every_other(mask: Tensor) -> Tensor:
    mask = mask.clone()
    mask[..., LATE::2] &= torch.eye(*mask[0, 0].shape, dtype=torch.bool)[..., LATE::2].flip(0)
    mask[..., -1] = True
    return mask


# Methods of classes


def attention_forward(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(LlamaAttention, "forward", _negated(LlamaAttention.forward))


def norm_of_another_model(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(LlamaRMSNorm, "forward", modeling_cohere.CohereLayerNorm.forward)


def norm_with_another_code(_: Any, patch: Patch, __: ExitStack) -> None:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        return 2 * self.weight * hidden_states

    patch.setattr(LlamaRMSNorm.forward, "__code__", forward.__code__)


def norm_by_a_bound_method(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(LlamaRMSNorm, "forward", Bound().forward)


def norm_by_a_partial_method(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(LlamaRMSNorm, "forward", functools.partialmethod(_scaled, 2))


def norm_by_a_callable(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(LlamaRMSNorm, "forward", Bound())


class Bound:
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    __call__ = forward


def _scaled(_: Any, by: int, x: Tensor) -> Tensor:
    return by * x


def layer_call(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(
        LlamaDecoderLayer, "__call__", lambda self, x, **kwargs: -nn.Module.__call__(self, x, **kwargs)
    )


def every_call(_: Any, patch: Patch, __: ExitStack) -> None:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = self._wrapped_call_impl(*args, **kwargs)
        return -result if isinstance(self, LlamaDecoderLayer) else result

    patch.setattr(nn.Module, "__call__", call)


def norm_epsilon_of_the_class(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(LlamaRMSNorm, "variance_epsilon", property(lambda _: 1.0), raising=False)


def inputs_prepared_by_the_class(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(
        LlamaForCausalLM,
        "prepare_inputs_for_generation",
        _shifted(LlamaForCausalLM.prepare_inputs_for_generation),
    )


def kwargs_updated_by_the_class(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(GenerationMixin, "_update_model_kwargs_for_generation", _jumping(GenerationMixin))


def cache_layers_that_forget(_: Any, patch: Patch, __: ExitStack) -> None:
    patch.setattr(cache_utils.DynamicLayer, "update", _negated(cache_utils.DynamicLayer.update))


def _shifted(prepare: Any) -> Any:
    @functools.wraps(prepare)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        inputs = prepare(*args, **kwargs)
        inputs["position_ids"] = 3 * inputs["position_ids"]
        return inputs

    return prepared


def _jumping(owner: Any) -> Any:
    update = owner._update_model_kwargs_for_generation

    def updated(*args: Any, **kwargs: Any) -> Any:
        inputs = update(*args, **kwargs)
        inputs["position_ids"][..., -1] += 5
        return inputs

    return updated


# Methods of instances


def _on(module_of: Callable[[Any], Any], name: str = "forward") -> Change:
    def change(model: Any, patch: Patch, _: ExitStack) -> None:
        target = module_of(model)
        patch.setitem(vars(target), name, _negated(getattr(target, name)))

    return change


def forward_without_a_signature(model: Any, patch: Patch, _: ExitStack) -> None:
    forward = model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = -output.logits
        return output

    patch.setitem(vars(model), "forward", changed)


def model_forward(model: Any, patch: Patch, stack: ExitStack) -> None:
    forward = model.forward
    forward_without_a_signature(model, patch, stack)
    patch.setitem(vars(model), "forward", functools.wraps(forward)(vars(model)["forward"]))


def inputs_prepared(model: Any, patch: Patch, _: ExitStack) -> None:
    patch.setitem(vars(model), "prepare_inputs_for_generation", _shifted(model.prepare_inputs_for_generation))


def kwargs_updated(model: Any, patch: Patch, _: ExitStack) -> None:
    patch.setitem(vars(model), "_update_model_kwargs_for_generation", _jumping(model))


def linear_forward(model: Any, patch: Patch, _: ExitStack) -> None:
    k_proj = _attention(model).k_proj
    patch.setitem(vars(k_proj), "forward", _negated(k_proj.forward))


# Other modules in their places


class Doubled(LlamaRMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Negated(LlamaAttention):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        y, weights = super().forward(*args, **kwargs)
        return -y, weights


class Forged(LlamaAttention):
    __module__ = LlamaAttention.__module__
    __qualname__ = LlamaAttention.__qualname__
    forward = _negated(LlamaAttention.forward)


class Weighted(nn.Module):
    """A norm written by a user. It shares no base class with LlamaRMSNorm except nn.Module."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(weight), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)


class Backwards(nn.Parameter):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
            return -result if function in (torch.Tensor.mul, torch.mul) else result


def _of_class(module_of: Callable[[Any], Any], kind: type) -> Change:
    def change(model: Any, patch: Patch, _: ExitStack) -> None:
        patch.setattr(module_of(model), "__class__", kind)

    return change


def another_norm(model: Any, patch: Patch, _: ExitStack) -> None:
    layer = model.model.layers[1]
    patch.setitem(layer._modules, "input_layernorm", Weighted(layer.input_layernorm.weight.detach().clone()))


def embedding_that_rescales(model: Any, patch: Patch, _: ExitStack) -> None:
    embedding, weight = model.model.embed_tokens, model.model.embed_tokens.weight
    # max_norm rescales the weight in place, so the model gets a copy.
    patch.setitem(embedding._parameters, "weight", nn.Parameter(weight.detach().clone()))
    patch.setitem(vars(embedding), "max_norm", 0.5)


def tensor_subclass(model: Any, patch: Patch, _: ExitStack) -> None:
    norm = model.model.layers[0].input_layernorm
    patch.setitem(norm._parameters, "weight", Backwards(norm.weight.detach().clone()))


def layers_swapped(model: Any, patch: Patch, _: ExitStack) -> None:
    layers = model.model.layers._modules
    first, second = layers["0"], layers["1"]
    patch.setitem(layers, "0", second)
    patch.setitem(layers, "1", first)


def parametrized(model: Any, _: Patch, stack: ExitStack) -> None:
    linear = _attention(model).q_proj
    parametrize.register_parametrization(linear, "weight", _Negative())
    stack.callback(parametrize.remove_parametrizations, linear, "weight", leave_parametrized=False)


class _Negative(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return -weight


# Hooks


def _hook(module_of: Callable[[Any], Any]) -> Change:
    def change(model: Any, _: Patch, stack: ExitStack) -> None:
        stack.callback(module_of(model).register_forward_hook(lambda *given: _flip(given[2])).remove)

    return change


def _flip(output: Any) -> Any:
    return (-output[0], *output[1:]) if isinstance(output, tuple) else -output


def pre_hook_on_a_layer(model: Any, _: Patch, stack: ExitStack) -> None:
    stack.callback(
        model.model.layers[1].register_forward_pre_hook(lambda _, args: (-2 * args[0], *args[1:])).remove
    )


def hook_on_every_module(_: Any, __: Patch, stack: ExitStack) -> None:
    stack.callback(
        register_module_forward_hook(
            lambda module, _, y: -y if isinstance(module, LlamaRMSNorm) else None
        ).remove
    )


def pre_hook_on_every_module(_: Any, __: Patch, stack: ExitStack) -> None:
    def hook(module: nn.Module, args: Any) -> Any:
        return (args[0] + 1,) if isinstance(module, LlamaRMSNorm) else None

    stack.callback(register_module_forward_pre_hook(hook).remove)


class Watching(TorchFunctionMode):
    """Negates the output of fused attention."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = function(*args, **(kwargs or {}))
        return -y if function is nn.functional.scaled_dot_product_attention and args[1].shape[1] == 4 else y


def function_mode(_: Any, __: Patch, stack: ExitStack) -> None:
    stack.enter_context(Watching())


# Attributes and settings that are read at run time


def _attribute(module_of: Callable[[Any], Any], name: str, value: Any) -> Change:
    def change(model: Any, patch: Patch, _: ExitStack) -> None:
        patch.setattr(module_of(model), name, value)

    return change


def sees_what_follows(model: Any, patch: Patch, _: ExitStack) -> None:
    patch.setitem(vars(model.config), "is_causal", False)


def frequencies_written(model: Any, _: Patch, stack: ExitStack) -> None:
    frequencies = model.model.rotary_emb.inv_freq
    stack.callback(frequencies.data.copy_, frequencies.clone())
    frequencies.data.mul_(3)


def frequencies_replaced(model: Any, patch: Patch, _: ExitStack) -> None:
    buffers = model.model.rotary_emb._buffers
    patch.setitem(buffers, "inv_freq", 3 * buffers["inv_freq"])


CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        registered_attention,
        sdpa_replaced_in_the_registry,
        sdpa_registered_anew,
        another_registry,
        eager_attention_registered,
        eager_attention_replaced,
        keys_repeated_otherwise,
        keys_repeated_otherwise_in_sdpa,
        torch_attention_replaced,
        rotation_replaced,
        half_rotation_of_another_model,
        half_rotation_replaced,
        mask_function_replaced,
        mask_made_otherwise,
        attention_forward,
        norm_of_another_model,
        norm_with_another_code,
        norm_by_a_bound_method,
        norm_by_a_partial_method,
        norm_by_a_callable,
        layer_call,
        every_call,
        norm_epsilon_of_the_class,
        inputs_prepared_by_the_class,
        kwargs_updated_by_the_class,
        cache_layers_that_forget,
        model_forward,
        forward_without_a_signature,
        inputs_prepared,
        kwargs_updated,
        linear_forward,
        another_norm,
        embedding_that_rescales,
        tensor_subclass,
        layers_swapped,
        parametrized,
        pre_hook_on_a_layer,
        hook_on_every_module,
        pre_hook_on_every_module,
        function_mode,
        sees_what_follows,
        frequencies_written,
        frequencies_replaced,
    )
} | {
    "forward of an attention": _on(_attention),
    "forward of a layer": _on(lambda model: model.model.layers[1]),
    "forward of a norm": _on(lambda model: model.model.layers[1].post_attention_layernorm),
    "forward of the head": _on(lambda model: model.lm_head),
    "forward of the rotary embedding": _on(lambda model: model.model.rotary_emb),
    "subclass of the norm": _of_class(lambda model: model.model.layers[0].input_layernorm, Doubled),
    "subclass of the attention": _of_class(_attention, Negated),
    "subclass that shows the name of the attention": _of_class(_attention, Forged),
    "hook on an attention": _hook(_attention),
    "hook on q_proj": _hook(lambda model: _attention(model).q_proj),
    "hook on k_proj": _hook(lambda model: _attention(model).k_proj),
    "hook on o_proj": _hook(lambda model: _attention(model).o_proj),
    "hook on the embedding": _hook(lambda model: model.model.embed_tokens),
    "hook on the head": _hook(lambda model: model.lm_head),
    "hook on the rotary embedding": _hook(lambda model: model.model.rotary_emb),
    "scaling": _attribute(_attention, "scaling", 3.0),
    "epsilon": _attribute(lambda model: model.model.layers[1].input_layernorm, "variance_epsilon", 1.0),
    "epsilon of the last norm": _attribute(
        lambda model: model.model.layers[0].post_attention_layernorm, "variance_epsilon", 10.0
    ),
    "scaling of angles": _attribute(lambda model: model.model.rotary_emb, "attention_scaling", 2.0),
}
