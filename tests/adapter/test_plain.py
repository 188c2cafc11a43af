"""Linear layers and modules that are not ordinary are refused.

peft, bitsandbytes, torchao and accelerate are not needed: look-alikes have the properties that matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from families import NEURONS, WIDTH, build
from refusing import refusal


class LoraLike(nn.Module):
    """Like peft's lora.Linear: no nn.Linear, shows the weight of its base layer, adds its own matmuls."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A, self.lora_B = (
            nn.Linear(base.in_features, 2, bias=False),
            nn.Linear(2, base.out_features, bias=False),
        )

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class Params4bitLike(nn.Parameter):
    """Like bitsandbytes' Params4bit: two weights per byte, in one column."""


class Linear4bitLike(nn.Linear):
    """Like bitsandbytes' Linear4bit: passes isinstance, and index_select on its weight gives garbage."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False)
        packed = torch.zeros(base.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = Params4bitLike(packed, requires_grad=False)


class QuantizedTensorLike(torch.Tensor):
    """Like torchao's tensors: claims the shape and type of the float weight, holds int8."""

    @staticmethod
    def __new__(cls, base: Tensor) -> QuantizedTensorLike:
        return torch.Tensor._make_wrapper_subclass(cls, base.shape, dtype=base.dtype, device=base.device)

    def __init__(self, base: Tensor) -> None:
        self.scale = base.abs().amax() / 127
        self.stored = (base / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return args[0]
        plain = [a.stored.to(a.dtype) * a.scale if isinstance(a, QuantizedTensorLike) else a for a in args]
        return function(*plain, **kwargs or {})


def _wrapped_by_peft(model: PreTrainedModel) -> None:
    mlp = model.model.layers[1].mlp
    mlp.up_proj = LoraLike(mlp.up_proj)


def _quantised_by_bitsandbytes(model: PreTrainedModel) -> None:
    mlp = model.model.layers[1].mlp
    mlp.down_proj = Linear4bitLike(mlp.down_proj)


def _packed(model: PreTrainedModel) -> None:
    packed = nn.Parameter(torch.zeros(NEURONS, WIDTH // 2, dtype=torch.uint8), requires_grad=False)
    model.model.layers[1].mlp.gate_proj.weight = packed


def _parameter_subclass(model: PreTrainedModel) -> None:
    gate = model.model.layers[1].mlp.gate_proj
    gate.weight = Params4bitLike(gate.weight.detach(), requires_grad=False)


def _quantised_by_torchao(model: PreTrainedModel) -> None:
    gate = model.model.layers[1].mlp.gate_proj
    gate.weight = nn.Parameter(QuantizedTensorLike(gate.weight.detach()), requires_grad=False)
    assert type(gate) is nn.Linear
    assert isinstance(gate.weight, nn.Parameter)
    assert gate.weight.dtype == torch.float32


def _quantised_by_config(model: PreTrainedModel) -> None:
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def _on_meta(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.to("meta")


def _offloaded_by_accelerate(model: PreTrainedModel) -> None:
    for module in model.model.layers[1].mlp.modules():
        module._hf_hook, module.forward = object(), module.forward
    _on_meta(model)


def _patched(model: PreTrainedModel) -> None:
    mlp = model.model.layers[1].mlp
    mlp.forward = mlp.forward


def _patched_linear(model: PreTrainedModel) -> None:
    up = model.model.layers[1].mlp.up_proj
    up.forward = up.forward


def _hooked(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda module, x, y: y)


def _hooked_linear(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda module, x: x)


def _compiled(model: PreTrainedModel) -> None:
    mlp = model.model.layers[1].mlp
    mlp._compiled_call_impl = mlp._call_impl  # what mlp.compile() sets


SPOILED: list[tuple[Callable[[PreTrainedModel], None], str]] = [
    (
        _wrapped_by_peft,
        "model.layers.1.mlp.up_proj carries an adapter (LoRA or alike); merge it into the weights first",
    ),
    (
        _quantised_by_bitsandbytes,
        "Linear4bitLike instead of a plain torch.nn.Linear; load the model without quantisation",
    ),
    (_packed, "model.layers.1.mlp.gate_proj stores its weight as torch.uint8"),
    (
        _parameter_subclass,
        "Params4bitLike as its weight (quantised or sharded); load the model with ordinary weights",
    ),
    (
        _quantised_by_torchao,
        "QuantizedTensorLike as its weight (quantised or sharded); load the model with ordinary weights",
    ),
    (
        _quantised_by_config,
        "LlamaForCausalLM is quantised (config.quantization_config is set); "
        "load the model without quantisation",
    ),
    (_on_meta, "model.layers.1.mlp.gate_proj has no weight in memory (meta device"),
    (_offloaded_by_accelerate, "model.layers.1.mlp (LlamaMLP) is placed by accelerate"),
    (_patched, "model.layers.1.mlp (LlamaMLP) has had its forward replaced; leave the pruning session"),
    (_patched_linear, "model.layers.1.mlp.up_proj has had its forward replaced"),
    (_hooked, "model.layers.1.mlp (LlamaMLP) carries forward hooks; remove them first"),
    (_hooked_linear, "model.layers.1.mlp.down_proj carries forward hooks; remove them first"),
    (_compiled, "model.layers.1.mlp (LlamaMLP) is compiled"),
]


@pytest.mark.parametrize(
    ("spoil", "reason"), SPOILED, ids=[spoil.__name__.strip("_") for spoil, _ in SPOILED]
)
def test_refuses_a_spoiled_model(spoil: Callable[[PreTrainedModel], None], reason: str) -> None:
    model = build("llama")
    spoil(model)
    assert reason in refusal(model)
