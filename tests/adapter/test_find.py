"""Every family's FFNs are found and reproduced bit for bit; whatever would be pruned wrongly is refused, with the reason.

peft, bitsandbytes, torchao and accelerate are not needed here: small look-alikes below have the properties that make the real ones traps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, LAYERS, NEURONS, REFUSED, STRUCTURES, VOCABULARY, WIDTH, build
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, softmax
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from regrow.adapter import find
from regrow.adapter.find import GatedFFN, find_ffns
from regrow.errors import UsageError

DTYPES = [torch.float32, torch.bfloat16]
ACCEPTED = [*FAMILIES, *STRUCTURES]


def _refused(model: nn.Module) -> str:
    """The one sentence with which a model is refused."""
    with pytest.raises(UsageError) as caught:
        find_ffns(model)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message  # what is wrong; what to do
    return message


def _random(*shape: int, dtype: torch.dtype, std: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * std).to(dtype)


# What is accepted


@pytest.mark.parametrize("name", ACCEPTED)
def test_one_ffn_a_layer_in_order(name: str) -> None:
    model = build(name)
    ffns = find_ffns(model)
    assert [int(re.findall(r"\d+", ffn.name)[0]) for ffn in ffns] == list(range(LAYERS))
    assert all(model.get_submodule(ffn.name) is ffn.module for ffn in ffns)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACCEPTED)
def test_output_of_hidden_is_the_module_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    model = build(name, dtype)
    ffns = find_ffns(model)
    hooks = [ffn.module.register_forward_hook(lambda module, x, y: seen.update({module: (x[0], y)})) for ffn in ffns]
    with torch.no_grad():
        model(torch.arange(3, 17).reshape(2, 7) % VOCABULARY)
        for hook in hooks:
            hook.remove()
        for ffn in ffns:
            x, y = seen[ffn.module]  # from inside the model
            assert torch.equal(ffn.output(ffn.hidden(x)), y)
            for shape in [(1, WIDTH), (3, WIDTH), (1, 1, WIDTH), (4, 1, WIDTH), (2, 5, WIDTH)]:
                x = _random(*shape, dtype=dtype, std=3.0)
                assert ffn.hidden(x).shape == (*shape[:-1], NEURONS)
                assert torch.equal(ffn.output(ffn.hidden(x)), ffn.module(x))


@pytest.mark.parametrize("name", ACCEPTED)
def test_weights_give_the_same_output(name: str) -> None:
    # float64, so that rounding (about 1e-15 here, sums of 32 and 64 terms) hides nothing
    for ffn in find_ffns(build(name, torch.float64)):
        x, w = _random(5, WIDTH, dtype=torch.float64), ffn.weights
        z = w.act(linear(x, w.gate, w.gate_bias)) * linear(x, w.up, w.up_bias)
        with torch.no_grad():
            torch.testing.assert_close(z, ffn.hidden(x), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(linear(z, w.down, w.down_bias), ffn.module(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ACCEPTED)
def test_weights_are_views_of_the_parameters(name: str) -> None:
    for ffn in find_ffns(build(name)):
        w = ffn.weights
        assert [tuple(t.shape) for t in (w.gate, w.up, w.down)] == [(NEURONS, WIDTH), (NEURONS, WIDTH), (WIDTH, NEURONS)]
        views = [t for t in (w.gate, w.up, w.down, w.gate_bias, w.up_bias, w.down_bias) if t is not None]
        stored = {p.untyped_storage().data_ptr() for p in ffn.module.parameters()}
        assert {t.untyped_storage().data_ptr() for t in views} == stored
        assert sum(t.numel() for t in views) == sum(p.numel() for p in ffn.module.parameters())
        assert not any(t.requires_grad for t in views)


def test_biases_of_a_fused_projection_are_split() -> None:
    model = build("phi3", torch.float64)
    for layer in model.model.layers:
        for fused in (layer.mlp.gate_up_proj, layer.mlp.down_proj):
            fused.bias = nn.Parameter(_random(fused.out_features, dtype=torch.float64))
    for ffn in find_ffns(model):
        bias = ffn.module.get_submodule("gate_up_proj").bias
        assert torch.equal(ffn.weights.gate_bias, bias[:NEURONS])
        assert torch.equal(ffn.weights.up_bias, bias[NEURONS:])
        assert torch.equal(ffn.weights.down_bias, ffn.module.get_submodule("down_proj").bias)


@pytest.mark.parametrize("name", ACCEPTED)
def test_leaves_no_trace(name: str) -> None:
    model = build(name)
    attributes = [(name, {key: id(value) for key, value in vars(module).items()}) for name, module in model.named_modules()]
    state, random_state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    find_ffns(model)
    assert [(name, {key: id(value) for key, value in vars(module).items()}) for name, module in model.named_modules()] == attributes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("std", [1e-4, 0.02, 3.0])
@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2", "squared", "biases"])
def test_the_probe_passes_at_every_type_and_scale(name: str, std: float, dtype: torch.dtype) -> None:
    model = build(name)
    for parameter in model.model.layers.parameters():
        parameter.data *= std / 0.2
    assert len(find_ffns(model.to(dtype))) == LAYERS


def test_a_block_that_adds_nothing_yet_is_accepted() -> None:
    model = build("llama")  # depth-expanded models start new blocks at down = 0
    model.model.layers[1].mlp.down_proj.weight.data.zero_()
    assert len(find_ffns(model)) == LAYERS


# Models that are refused as they come

REASONS = {
    "bitnet": r"model\.layers\.0\.mlp \(BitNetMLP\) computes something else than down\(act\(gate x\) \* up x\)",
    "falcon_h1": r"model\.layers\.0\.feed_forward \(FalconH1MLP\) computes something else than down\(act\(gate x\) \* up x\)",
    "starcoder2": r"Starcoder2ForCausalLM has no gated FFN",
    "gpt_neox": r"GPTNeoXForCausalLM has no gated FFN",
    "mixtral": r"model\.layers\.0\.mlp\.experts \(MixtralExperts\) is a mixture of experts.*use a dense model",
    "qwen2_5_vl": r"Qwen2_5_VLForConditionalGeneration is more than a causal language model.*load its language model alone",
    "t5gemma": r"T5GemmaForConditionalGeneration is not a decoder-only language model.*AutoModelForCausalLM",
}


def test_every_refused_model_has_its_reason() -> None:
    assert REASONS.keys() == REFUSED.keys()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_the_model(name: str, dtype: torch.dtype) -> None:
    assert re.search(REASONS[name], _refused(build(name, dtype)))


def test_refuses_a_model_without_a_head() -> None:
    assert "LlamaModel is not a decoder-only language model with a head" in _refused(build("llama").model)


def test_refuses_a_wrapper_around_the_model() -> None:
    class PeftLike(nn.Module):
        def __init__(self, model: PreTrainedModel) -> None:
            super().__init__()
            self.base_model = model

    assert "PeftLike is not a transformers model; unwrap it first (peft: merge_and_unload()" in _refused(PeftLike(build("llama")))


# Llama with something wrong in its second layer


class LoraLike(nn.Module):
    """Like peft's lora.Linear: not an nn.Linear, shows the base's weight, adds its own product."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A, self.lora_B = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class Params4bitLike(nn.Parameter):
    """Like bitsandbytes' Params4bit: two weights a byte, in one column."""


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


def _wider(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp = _mlp(LlamaMLP, 2 * NEURONS)


def _ragged(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.up_proj = nn.Linear(WIDTH, 2 * NEURONS, bias=False)


def _none_in_a_layer(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp = nn.Identity()


def _two_in_a_layer(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp2 = _mlp(LlamaMLP)


def _both_in_one_layer(model: PreTrainedModel) -> None:
    _two_in_a_layer(model)
    model.model.layers[0].mlp = nn.Identity()


def _listed_experts(model: PreTrainedModel) -> None:
    mlp = nn.Module()
    mlp.experts = nn.ModuleList([_mlp(LlamaMLP), _mlp(LlamaMLP)])
    model.model.layers[1].mlp = mlp


def _stacked_experts(model: PreTrainedModel) -> None:
    """Experts that their names do not give away."""
    mlp = nn.Module()
    mlp.gate_up_proj = nn.Parameter(torch.ones(4, 2 * NEURONS, WIDTH))
    mlp.down_proj = nn.Parameter(torch.ones(4, WIDTH, NEURONS))
    model.model.layers[1].mlp = mlp


def _two_types(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.double()


SPOILED: list[tuple[Callable[[PreTrainedModel], None], str]] = [
    (_wrapped_by_peft, "model.layers.1.mlp.up_proj carries an adapter (LoRA or alike); merge it into the weights first"),
    (_quantised_by_bitsandbytes, "Linear4bitLike instead of a plain torch.nn.Linear; load the model without quantisation"),
    (_packed, "model.layers.1.mlp.gate_proj stores its weight as torch.uint8"),
    (_parameter_subclass, "Params4bitLike as its weight (quantised or sharded); load the model with ordinary weights"),
    (_quantised_by_torchao, "QuantizedTensorLike as its weight (quantised or sharded); load the model with ordinary weights"),
    (_quantised_by_config, "LlamaForCausalLM is quantised (config.quantization_config is set); load the model without quantisation"),
    (_on_meta, "model.layers.1.mlp.gate_proj has no weight in memory (meta device"),
    (_offloaded_by_accelerate, "model.layers.1.mlp (LlamaMLP) is placed by accelerate"),
    (_patched, "model.layers.1.mlp (LlamaMLP) has had its forward replaced; leave the pruning session"),
    (_patched_linear, "model.layers.1.mlp.up_proj has had its forward replaced"),
    (_hooked, "model.layers.1.mlp (LlamaMLP) carries forward hooks; remove them first"),
    (_hooked_linear, "model.layers.1.mlp.down_proj carries forward hooks; remove them first"),
    (_compiled, "model.layers.1.mlp (LlamaMLP) is compiled"),
    (_wider, "different sizes, F x D = 128 x 32 and 64 x 32"),
    (_ragged, "model.layers.1.mlp has gate, up and down of shapes [64, 32], [128, 32], [32, 64]"),
    (_none_in_a_layer, "1 gated FFNs in 1 of its 2 decoder layers"),
    (_two_in_a_layer, "3 gated FFNs in 2 of its 2 decoder layers"),
    (_both_in_one_layer, "2 gated FFNs in 1 of its 2 decoder layers"),
    (_listed_experts, "model.layers.1.mlp.experts (ModuleList) is a mixture of experts"),
    (_stacked_experts, "model.layers.1.mlp.gate_up_proj is a torch.nn.parameter.Parameter instead of a torch.nn.Linear"),
    (_two_types, "different types, torch.float32 and torch.float64; load the model in one dtype"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILED, ids=[spoil.__name__.strip("_") for spoil, _ in SPOILED])
def test_refuses_a_spoiled_model(spoil: Callable[[PreTrainedModel], None], reason: str) -> None:
    model = build("llama")
    spoil(model)
    assert reason in _refused(model)


def test_refuses_weights_on_two_devices() -> None:
    # A machine with one device cannot hold such a model: the check is given one weight that merely claims another device.
    first, second = find_ffns(build("llama"))
    elsewhere: GatedFFN = replace(second, weights=replace(second.weights, down=second.weights.down.to("meta")))
    with pytest.raises(UsageError, match="different devices, cpu and meta; load the whole model onto one device"):
        find._check_alike([first, elsewhere])


# Modules that keep the names and change the maths


def _mlp(kind: type[nn.Module], neurons: int = NEURONS) -> nn.Module:
    config = transformers.LlamaConfig if kind is not Phi3MLP and not issubclass(kind, Phi3MLP) else transformers.Phi3Config
    with torch.random.fork_rng():
        return kind(config(hidden_size=WIDTH, intermediate_size=neurons, pad_token_id=0))


class ClampedGate(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=10.0)) * self.up_proj(x))


class ClampedUp(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x).clamp(-10.0, 10.0))


class Scaled(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 1.004 * super().forward(x)


class Swapped(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


class UpFirst(Phi3MLP):
    def forward(self, hidden_states: Tensor) -> Tensor:
        up, gate = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(up * self.activation_fn(gate))


class Sparse(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(self.act_fn(torch.relu(gate - gate.std(-1, keepdim=True))) * self.up_proj(x))


class Dropping(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(super().forward(x), 0.1)


class Pair(LlamaMLP):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return super().forward(x), None


class Residual(LlamaMLP):
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return super().forward(x) + residual


class Broken(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


OTHER_MATHS = [ClampedGate, ClampedUp, Scaled, Swapped, UpFirst, Sparse, Dropping, Pair, Residual, Broken]


@pytest.mark.parametrize("dtype", [torch.float16, *DTYPES], ids=str)
@pytest.mark.parametrize("kind", OTHER_MATHS)
def test_refuses_other_maths(kind: type[nn.Module], dtype: torch.dtype) -> None:
    model = build("phi3" if issubclass(kind, Phi3MLP) else "llama", dtype)
    model.model.layers[1].mlp.__class__ = kind
    message = _refused(model)
    assert message.startswith(f"model.layers.1.mlp ({kind.__name__}) ")
    assert "down(act(gate x) * up x)" in message


@pytest.mark.parametrize("dtype", [torch.float16, *DTYPES], ids=str)
def test_a_clamp_shows_through_small_weights(dtype: torch.dtype) -> None:
    model = build("llama")
    mlp = model.model.layers[1].mlp
    mlp.__class__ = ClampedGate
    for parameter in mlp.parameters():
        parameter.data *= 1e-2
    assert "computes something else" in _refused(model.to(dtype))


def _activations() -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    yield "mixes neurons", lambda gate: softmax(gate, dim=-1)
    yield "mixes rows", lambda gate: gate - gate.mean(-2, keepdim=True)
    yield "shifts neurons", lambda gate: gate.roll(1, dims=-1)
    yield "depends on the place", lambda gate: gate * torch.arange(gate.shape[-1], dtype=gate.dtype)
    yield "changes the shape", lambda gate: gate[..., :1]
    yield "changes the type", lambda gate: gate.double()


@pytest.mark.parametrize("act", [pytest.param(act, id=name) for name, act in _activations()])
def test_refuses_an_activation_that_is_not_elementwise(act: Callable[[Tensor], Tensor]) -> None:
    model = build("llama")
    del model.model.layers[1].mlp.act_fn
    model.model.layers[1].mlp.act_fn = act
    assert "model.layers.1.mlp (LlamaMLP) has an activation that mixes neurons or changes shapes" in _refused(model)
