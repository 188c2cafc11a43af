"""Methods may act on the linear layers of the decoder layers, with the right sites and sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import regrow
from batches import arguments, prompts
from families import FAMILIES, LAYERS, WIDTH, build
from regrow.adapter.find import find_ffns
from regrow.adapter.linears import find_linears, sizes
from regrow.adapter.survey import survey
from regrow.core import Linear, Site, Surface
from regrow.errors import UsageError
from regrow.method.presets import METHODS, make

PRUNABLE = [*FAMILIES, "biases", "squared"]
BATCH = prompts(2)


def found_in(model: PreTrainedModel) -> dict[str, tuple[nn.Linear, Linear]]:
    return {entry.name: (module, entry) for module, entry in find_linears(model, find_ffns(model))}


def inside(model: PreTrainedModel) -> dict[str, tuple[int, nn.Linear]]:
    """Returns every linear layer in the decoder layers by name, with the number of its decoder layer."""
    return {
        f"model.layers.{layer}.{name}": (layer, module)
        for layer, block in enumerate(model.model.layers)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("family", PRUNABLE)
def test_they_are_the_linears_of_the_decoder_layers(family: str) -> None:
    model = build(family)
    found, want = found_in(model), inside(model)
    assert list(found) == list(want)  # in the order of the model
    assert sorted(found) == sorted(
        name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"
    )
    for name, (layer, linear) in want.items():
        module, entry = found[name]
        assert module is linear
        assert entry.layer == layer
        assert entry.weight.data_ptr() == linear.weight.data_ptr()  # a view
        assert not entry.weight.requires_grad
        assert (entry.bias is None) == (linear.bias is None)
        assert entry.bias is None or torch.equal(entry.bias, linear.bias)


@pytest.mark.parametrize("family", PRUNABLE)
def test_a_site_is_what_is_fed_one_input(family: str) -> None:
    """The identity of the input tensor shows which linear layers share it."""
    model, fed = build(family), {}
    found = found_in(model)
    for name, (module, _) in found.items():
        module.register_forward_pre_hook(lambda _, args, name=name: fed.setdefault(name, args[0]))
    model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
    for layer in range(LAYERS):
        own = [entry for _, entry in found.values() if entry.layer == layer]
        by_site = [[id(fed[entry.name]) for entry in own if entry.site is site] for site in Site]
        assert all(len(set(ids)) == 1 for ids in by_site)
        shared = family == "cohere2"  # attention and FFN side by side
        assert len({ids[0] for ids in by_site}) == len(Site) - shared
        down = next(entry for entry in own if entry.site is Site.DOWN)
        assert down.weight.shape == (WIDTH, 2 * WIDTH)
        for site in (Site.QKV, Site.GATE_UP):
            assert {entry.weight.shape[1] for entry in own if entry.site is site} == {WIDTH}


@pytest.mark.parametrize("family", PRUNABLE)
def test_sizes_are_the_weights_of_the_layers(family: str) -> None:
    model = build(family)
    found, counted = found_in(model), sizes(model, find_ffns(model))
    assert list(counted) == list(Site)
    for layer, block in enumerate(model.model.layers):
        assert sum(row[layer] for row in counted.values()) == sum(
            p.numel() for p in block.parameters() if p.dim() == 2
        )
        for site, row in counted.items():
            assert row[layer] == sum(
                m.weight.numel() for m, entry in found.values() if (entry.layer, entry.site) == (layer, site)
            )


def test_fused_ones_are_one_linear_of_their_site() -> None:
    model = build("phi3")
    found = found_in(model)
    assert [name.rpartition(".")[2] for name in list(found)[:4]] == [name for name, _ in _children(model)]
    sites = {name.rpartition(".")[2]: entry.site for name, (_, entry) in found.items()}
    assert sites == {
        "o_proj": Site.O,
        "qkv_proj": Site.QKV,
        "gate_up_proj": Site.GATE_UP,
        "down_proj": Site.DOWN,
    }


def _children(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    block = model.model.layers[0]
    return [
        (name, m)
        for part in (block.self_attn, block.mlp)
        for name, m in part.named_children()
        if isinstance(m, nn.Linear)
    ]


# What is refused


class Widened(nn.Module):
    """A norm with a linear layer behind it, which no family has."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.gate = norm, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + 0.1 * self.gate(x)


def widened() -> PreTrainedModel:
    model = build("qwen2")
    model.model.layers[1].input_layernorm = Widened(model.model.layers[1].input_layernorm)
    return model


SENTENCE = (
    "model.layers.1.input_layernorm.gate is a linear layer that Regrow does not know; "
    "use a method that prunes neurons, such as bap"
)


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_linear_is_refused_by_methods_for_all_linears_alone(name: str) -> None:
    model, method = widened(), make(name)
    if method.surface in (Surface.INPUTS, Surface.WEIGHTS):
        with pytest.raises(UsageError) as caught:
            survey(model, method.surface, method.sites)
        assert str(caught.value) == SENTENCE
    else:
        blocks, modules = survey(model, method.surface, method.sites)
        assert [ffn.module for ffn in find_ffns(model)] == modules
        assert blocks.linears == []
        # Only layers with known names are counted.
        assert blocks.sizes == sizes(build("qwen2"), find_ffns(build("qwen2")))


def test_ffn_methods_run_beside_an_unknown_linear() -> None:
    model = widened()
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=19)) as session:
        assert torch.equal(model.generate(**arguments(BATCH)), stock)  # nothing was sparse yet
        dense = session.report().sites
    with regrow.prune(model, regrow.Griffin(sparsity=0.5)) as session:
        assert not torch.equal(model.generate(**arguments(BATCH)), stock)
        sites = session.report().sites
    for site in ("qkv", "o"):
        assert sites[site].kept == sites[site].dense == dense[site].dense
    assert sites["down"].kept == [count // 2 for count in dense["down"].kept]


def test_a_model_with_convolutions_is_for_ffn_methods() -> None:
    model = build("w1_w3_w2")
    with pytest.raises(
        UsageError,
        match=r"^model\.layers\.0\.conv\.in_proj is a linear layer that Regrow does not know; "
        "use a method that prunes neurons, such as bap",
    ):
        found_in(model)
    counted = sizes(model, find_ffns(model))
    ffn = [sum(p.numel() for p in block.feed_forward.parameters()) for block in model.model.layers]
    assert [counted[Site.GATE_UP][i] + counted[Site.DOWN][i] for i in range(LAYERS)] == ffn


def test_an_attention_linear_that_is_not_what_it_seems_is_refused() -> None:
    model = build("qwen2")
    ffns = find_ffns(model)
    handle = model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda *_: None)
    with pytest.raises(
        UsageError, match=r"^model\.layers\.1\.self_attn\.q_proj carries forward hooks; remove them first$"
    ):
        find_linears(model, ffns)
    handle.remove()
    model.model.layers[0].self_attn.o_proj.weight = nn.Parameter(
        torch.zeros(WIDTH, WIDTH, dtype=torch.uint8), requires_grad=False
    )
    with pytest.raises(
        UsageError, match=r"^model\.layers\.0\.self_attn\.o_proj stores its weight as torch\.uint8"
    ):
        find_linears(model, ffns)
