"""Finds the linear layers of the decoder blocks, attention included, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, cast

from torch import nn

from regrow.adapter.find import GatedFFN
from regrow.adapter.plain import odd_linear
from regrow.core import Linear, Site
from regrow.errors import UsageError

_SITES: Final = {
    "q_proj": Site.QKV,
    "k_proj": Site.QKV,
    "v_proj": Site.QKV,
    "qkv_proj": Site.QKV,
    "o_proj": Site.O,
    "gate_proj": Site.GATE_UP,
    "up_proj": Site.GATE_UP,
    "gate_up_proj": Site.GATE_UP,
    "w1": Site.GATE_UP,
    "w3": Site.GATE_UP,
    "down_proj": Site.DOWN,
    "w2": Site.DOWN,
}


def find_linears(model: nn.Module, ffns: Sequence[GatedFFN]) -> list[tuple[nn.Linear, Linear]]:
    """Returns every linear layer of the decoder blocks, in model order, with its description for methods.

    `ffns` are the FFNs of the model. Layers are recognised by the names in use. Raises UsageError for a
    linear layer with an unknown name, and for one that is not an ordinary linear layer.
    """
    found = []
    for layer, name, module in _in_blocks(model, ffns):
        if not isinstance(module, nn.Linear):
            continue
        site = _SITES.get(name.rpartition(".")[2])
        if site is None:
            raise UsageError(
                f"{name} is a linear layer that Regrow does not know; "
                "use a method that prunes neurons, such as bap"
            )
        if reason := odd_linear(module):
            raise UsageError(f"{name} {reason}")
        bias = None if module.bias is None else module.bias.detach()
        found.append((module, Linear(name, layer, site, module.weight.detach(), bias)))
    return found


def block_linears(model: nn.Module, ffns: Sequence[GatedFFN]) -> list[dict[str, nn.Linear]]:
    """Returns the linear layers of each decoder block by name, whatever they are called.

    `ffns` are the FFNs of the model. Raises UsageError for one that is not an ordinary linear layer.
    """
    found: list[dict[str, nn.Linear]] = [{} for _ in ffns]
    for layer, name, module in _in_blocks(model, ffns):
        if isinstance(module, nn.Linear) or hasattr(module, "base_layer"):
            if reason := odd_linear(module):
                raise UsageError(f"{name} {reason}")
            found[layer][name] = cast("nn.Linear", module)
    return found


def sizes(model: nn.Module, ffns: Sequence[GatedFFN]) -> dict[Site, list[int]]:
    """Returns the weight elements by site and layer, for FFNs and for attention layers with known names."""
    found = {site: [0] * len(ffns) for site in Site}
    for layer, name, module in _in_blocks(model, ffns):
        site = _SITES.get(name.rpartition(".")[2])
        if site is not None and isinstance(module, nn.Linear):
            found[site][layer] += module.weight.numel()
    return {site: row for site, row in found.items() if any(row)}


def _in_blocks(model: nn.Module, ffns: Sequence[GatedFFN]) -> Iterator[tuple[int, str, nn.Module]]:
    """Yields layer, name and module of everything inside the decoder blocks, in model order."""
    layer_of = {_block(ffn.name): layer for layer, ffn in enumerate(ffns)}
    for name, module in model.named_modules():
        layer = layer_of.get(_block(name))
        if layer is not None:
            yield layer, name, module


def _block(name: str) -> str | None:
    """Returns the block of a module: `model.layers.3` for `model.layers.3.mlp.gate_proj`."""
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match[0] if match else None
