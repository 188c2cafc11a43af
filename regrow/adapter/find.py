"""Finds the gated FFNs of a causal language model.

The structure is checked first (here and in plain.py), then what each FFN computes (probe.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import PreTrainedModel

from regrow.adapter.plain import OwnForward, odd_linear, wrapped
from regrow.adapter.probe import mismatch
from regrow.core import FFNWeights
from regrow.errors import UsageError

_Function = Callable[[Tensor], Tensor]

_SPLIT: Final = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_FUSED: Final = ("gate_up_proj", "down_proj")  # rows of gate_up_proj: gate, then up
_ACTIVATIONS: Final = ("act_fn", "activation_fn", "act")


@final
@dataclass(frozen=True)
class GatedFFN:
    """One gated FFN of a model, y = output(hidden(x)).

    `hidden` maps x [..., D] to z [..., F] with the module's own linear layers, and `output` is the module's
    own down projection. So output(hidden(x)) equals module(x) bit for bit. `weights` are views of the current
    parameters: call `find_ffns` again after moving or casting the model.
    """

    name: str  # as in model.named_modules()
    module: nn.Module
    weights: FFNWeights
    hidden: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor]


def find_ffns(model: nn.Module) -> list[GatedFFN]:
    """Returns the gated FFNs of a text-only causal language model in layer order, one per decoder layer.

    Raises UsageError, with the module and the reason, for any model that cannot be pruned faithfully. Models
    with a vision or audio tower are refused rather than pruned in part.
    """
    layers = _decoder_layers(model)
    ffns = [_resolve(name, module) for name, module in model.named_modules() if _names(module)]
    if not ffns:
        raise UsageError(
            f"{type(model).__name__} has no gated FFN, down(act(gate x) * up x); "
            "use a model that has, such as Llama or Qwen"
        )
    _check_layers(ffns, layers)
    _check_alike(ffns)
    for ffn in ffns:
        if reason := mismatch(ffn.module, ffn.weights, ffn.hidden, ffn.output):
            raise UsageError(f"{ffn.name} ({type(ffn.module).__name__}) {reason}")
    return ffns


def _decoder_layers(model: nn.Module) -> int:
    """Returns the number of decoder layers.

    Raises UsageError unless this is an unquantised, dense, text-only causal language model.
    """
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"{kind} is not a transformers model; "
            "unwrap it first (peft: merge_and_unload(), torch.compile: _orig_mod)"
        )
    if getattr(model.config, "quantization_config", None) is not None:
        raise UsageError(
            f"{kind} is quantised (config.quantization_config is set); load the model without quantisation"
        )
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise UsageError(
            f"{kind} is not a decoder-only language model with a head; load one with AutoModelForCausalLM"
        )
    if model.config.get_text_config() is not model.config:
        raise UsageError(
            f"{kind} is more than a causal language model (its config has sub-configs); "
            "load its language model alone"
        )
    for name, module in model.named_modules():
        if _holds_experts(name, module):
            raise UsageError(
                f"{name} ({type(module).__name__}) is a mixture of experts, which is not supported; "
                "use a dense model"
            )
    return int(model.config.num_hidden_layers)


def _holds_experts(name: str, module: nn.Module) -> bool:
    """Returns True if the module holds experts.

    Experts come as a list of modules or as raw parameters of one module, so only the name tells.
    """
    named = "expert" in f"{name.rpartition('.')[2]} {type(module).__name__}".lower()
    return named and (
        isinstance(module, nn.ModuleList) or any(p.dim() > 1 for p in module.parameters(recurse=False))
    )


def _names(module: nn.Module) -> tuple[str, ...]:
    """Returns the attribute names of the module's linear layers, down last; () if it has none."""
    own = {*module._modules, *module._parameters}
    return next((names for names in (*_SPLIT, _FUSED) if own.issuperset(names)), ())


def _resolve(name: str, module: nn.Module) -> GatedFFN:
    """Builds the FFN that the attribute names promise, without probing it."""
    if reason := wrapped(module):
        raise UsageError(f"{name} ({type(module).__name__}) {reason}")
    *first, down = _linears(name, module)
    key, act = next(
        ((key, function) for key in _ACTIVATIONS if callable(function := getattr(module, key, None))),
        ("", silu),
    )
    if isinstance(act, nn.Module) and (reason := wrapped(act)):
        raise UsageError(f"{name}.{key} {reason}")
    weights, hidden = (
        _split(*first, down=down, act=act) if len(first) == 2 else _fused(*first, down=down, act=act)
    )
    neurons, width = weights.gate.shape
    if weights.up.shape != (neurons, width) or weights.down.shape != (width, neurons):
        shapes = ", ".join(str(list(w.shape)) for w in (weights.gate, weights.up, weights.down))
        raise UsageError(
            f"{name} has gate, up and down of shapes {shapes}, not [F, D], [F, D], [D, F]; "
            "use a model with gated FFNs"
        )
    return GatedFFN(name, module, weights, hidden, down)


def _linears(name: str, module: nn.Module) -> list[nn.Linear]:
    linears = {key: getattr(module, key) for key in _names(module)}
    for key, linear in linears.items():
        if reason := odd_linear(linear):
            raise UsageError(f"{name}.{key} {reason}")
    return list(linears.values())


def _split(
    gate: nn.Linear, up: nn.Linear, *, down: nn.Linear, act: _Function
) -> tuple[FFNWeights, _Function]:
    def hidden(x: Tensor) -> Tensor:
        forward = vars(gate).get("forward")
        gating = forward.gating(up) if isinstance(forward, OwnForward) else None
        z: Tensor = act(gate(x)) * up(x) if gating is None else gating(x)
        return z

    (gate_weight, gate_bias), (up_weight, up_bias), (down_weight, down_bias) = map(
        _parameters, (gate, up, down)
    )
    return FFNWeights(gate_weight, up_weight, down_weight, act, gate_bias, up_bias, down_bias), hidden


def _fused(gate_up: nn.Linear, *, down: nn.Linear, act: _Function) -> tuple[FFNWeights, _Function]:
    def hidden(x: Tensor) -> Tensor:
        gate, up = gate_up(x).chunk(2, dim=-1)
        z: Tensor = act(gate) * up
        return z

    (weight, bias), (down_weight, down_bias) = map(_parameters, (gate_up, down))
    gate_weight, up_weight = weight.tensor_split(2)
    gate_bias, up_bias = (None, None) if bias is None else bias.tensor_split(2)
    return FFNWeights(gate_weight, up_weight, down_weight, act, gate_bias, up_bias, down_bias), hidden


def _parameters(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight.detach(), None if linear.bias is None else linear.bias.detach()


def _check_layers(ffns: list[GatedFFN], layers: int) -> None:
    """Raises UsageError unless every decoder layer has exactly one FFN.

    Modules of one layer share their name up to the first number.
    """
    found = {match[0] for ffn in ffns if (match := re.match(r".*?\.\d+(?=\.)", ffn.name))}
    if not len(ffns) == len(found) == layers:
        raise UsageError(
            f"the model has {len(ffns)} gated FFNs in {len(found)} of its {layers} decoder layers; "
            "use a model with one in each"
        )


def _check_alike(ffns: list[GatedFFN]) -> None:
    """Raises UsageError unless the weights of all FFNs have one size, device and dtype."""
    weights = [ffn.weights for ffn in ffns]
    if found := _several("{} x {}".format(*w.gate.shape) for w in weights):
        raise UsageError(
            f"the FFNs have different sizes, F x D = {found}; use a model whose FFNs are all of one size"
        )
    tensors = [
        t
        for w in weights
        for t in (w.gate, w.up, w.down, w.gate_bias, w.up_bias, w.down_bias)
        if t is not None
    ]
    if found := _several(str(t.device) for t in tensors):
        raise UsageError(
            f"the FFN weights lie on different devices, {found}; load the whole model onto one device"
        )
    if found := _several(str(t.dtype) for t in tensors):
        raise UsageError(f"the FFN weights are of different types, {found}; load the model in one dtype")


def _several(values: Iterable[str]) -> str:
    """Returns the distinct values, joined by "and"; empty if there is at most one."""
    distinct = sorted(set(values))
    return " and ".join(distinct) if len(distinct) > 1 else ""
