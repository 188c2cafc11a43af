"""Every family's FFNs are found, in order, and reproduced bit for bit.

Models that do not have one ordinary gated FFN per layer are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP

from families import FAMILIES, LAYERS, NEURONS, REFUSED, STRUCTURES, VOCABULARY, WIDTH, build
from refusing import refusal
from regrow.adapter import find
from regrow.adapter.find import GatedFFN, find_ffns
from regrow.errors import UsageError

DTYPES = [torch.float32, torch.bfloat16]
ACCEPTED = [*FAMILIES, *STRUCTURES]


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
    hooks = [
        ffn.module.register_forward_hook(lambda module, x, y: seen.update({module: (x[0], y)}))
        for ffn in ffns
    ]
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
        assert [tuple(t.shape) for t in (w.gate, w.up, w.down)] == [
            (NEURONS, WIDTH),
            (NEURONS, WIDTH),
            (WIDTH, NEURONS),
        ]
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
    attributes = [
        (name, {key: id(value) for key, value in vars(module).items()})
        for name, module in model.named_modules()
    ]
    state, random_state = (
        {key: value.clone() for key, value in model.state_dict().items()},
        torch.get_rng_state(),
    )
    find_ffns(model)
    assert [
        (name, {key: id(value) for key, value in vars(module).items()})
        for name, module in model.named_modules()
    ] == attributes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


# Models that are refused as they come

REASONS = {
    "bitnet": r"model\.layers\.0\.mlp \(BitNetMLP\) "
    r"computes something else than down\(act\(gate x\) \* up x\)",
    "falcon_h1": r"model\.layers\.0\.feed_forward \(FalconH1MLP\) "
    r"computes something else than down\(act\(gate x\) \* up x\)",
    "starcoder2": r"Starcoder2ForCausalLM has no gated FFN",
    "gpt_neox": r"GPTNeoXForCausalLM has no gated FFN",
    "mixtral": r"model\.layers\.0\.mlp\.experts \(MixtralExperts\) is a mixture of experts"
    r".*use a dense model",
    "qwen2_5_vl": r"Qwen2_5_VLForConditionalGeneration is more than a causal language model"
    r".*load its language model alone",
    "t5gemma": r"T5GemmaForConditionalGeneration is not a decoder-only language model.*AutoModelForCausalLM",
}


def test_every_refused_model_has_its_reason() -> None:
    assert REASONS.keys() == REFUSED.keys()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_the_model(name: str, dtype: torch.dtype) -> None:
    assert re.search(REASONS[name], refusal(build(name, dtype)))


def test_refuses_a_model_without_a_head() -> None:
    assert "LlamaModel is not a decoder-only language model with a head" in refusal(build("llama").model)


def test_refuses_a_wrapper_around_the_model() -> None:
    class PeftLike(nn.Module):
        def __init__(self, model: PreTrainedModel) -> None:
            super().__init__()
            self.base_model = model

    assert "PeftLike is not a transformers model; unwrap it first (peft: merge_and_unload()" in refusal(
        PeftLike(build("llama"))
    )


# Llama with something wrong in its second layer


def _mlp(neurons: int = NEURONS) -> nn.Module:
    with torch.random.fork_rng():
        return LlamaMLP(transformers.LlamaConfig(hidden_size=WIDTH, intermediate_size=neurons))


def _wider(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp = _mlp(2 * NEURONS)


def _ragged(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.up_proj = nn.Linear(WIDTH, 2 * NEURONS, bias=False)


def _none_in_a_layer(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp = nn.Identity()


def _two_in_a_layer(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp2 = _mlp()


def _both_in_one_layer(model: PreTrainedModel) -> None:
    _two_in_a_layer(model)
    model.model.layers[0].mlp = nn.Identity()


def _listed_experts(model: PreTrainedModel) -> None:
    mlp = nn.Module()
    mlp.experts = nn.ModuleList([_mlp(), _mlp()])
    model.model.layers[1].mlp = mlp


def _stacked_experts(model: PreTrainedModel) -> None:
    """Experts that cannot be recognised by their names."""
    mlp = nn.Module()
    mlp.gate_up_proj = nn.Parameter(torch.ones(4, 2 * NEURONS, WIDTH))
    mlp.down_proj = nn.Parameter(torch.ones(4, WIDTH, NEURONS))
    model.model.layers[1].mlp = mlp


def _two_types(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.down_proj.double()


SPOILED: list[tuple[Callable[[PreTrainedModel], None], str]] = [
    (_wider, "different sizes, F x D = 128 x 32 and 64 x 32"),
    (_ragged, "model.layers.1.mlp has gate, up and down of shapes [64, 32], [128, 32], [32, 64]"),
    (_none_in_a_layer, "1 gated FFNs in 1 of its 2 decoder layers"),
    (_two_in_a_layer, "3 gated FFNs in 2 of its 2 decoder layers"),
    (_both_in_one_layer, "2 gated FFNs in 1 of its 2 decoder layers"),
    (_listed_experts, "model.layers.1.mlp.experts (ModuleList) is a mixture of experts"),
    (
        _stacked_experts,
        "model.layers.1.mlp.gate_up_proj is a torch.nn.parameter.Parameter instead of a torch.nn.Linear",
    ),
    (_two_types, "different types, torch.float32 and torch.float64; load the model in one dtype"),
]


@pytest.mark.parametrize(
    ("spoil", "reason"), SPOILED, ids=[spoil.__name__.strip("_") for spoil, _ in SPOILED]
)
def test_refuses_a_spoiled_model(spoil: Callable[[PreTrainedModel], None], reason: str) -> None:
    model = build("llama")
    spoil(model)
    assert reason in refusal(model)


def test_refuses_weights_on_two_devices() -> None:
    # A machine may have one device only, so one weight is moved to `meta`.
    first, second = find_ffns(build("llama"))
    elsewhere: GatedFFN = replace(
        second, weights=replace(second.weights, down=second.weights.down.to("meta"))
    )
    with pytest.raises(
        UsageError, match="different devices, cpu and meta; load the whole model onto one device"
    ):
        find._check_alike([first, elsewhere])
