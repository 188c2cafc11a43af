"""Finding the linears of the decoder blocks, attention included, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

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
    """Every linear of the decoder blocks, in the order of the model, each with what a method sees of it; `ffns` are the model's.

    They are told by the names in use. Raises UsageError for a linear of another
    name, and for one that is not an ordinary linear.
    """
    homes = {_block(ffn.name): layer for layer, ffn in enumerate(ffns)}
    found = []
    for name, module in model.named_modules():
        layer = homes.get(_block(name))
        if layer is None or not isinstance(module, nn.Linear):
            continue
        site = _SITES.get(name.rpartition(".")[2])
        if site is None:
            raise UsageError(
                f"{name} is a linear that Regrow does not know; use a method of neurons, such as bap"
            )
        if reason := odd_linear(module):
            raise UsageError(f"{name} {reason}")
        bias = None if module.bias is None else module.bias.detach()
        found.append((module, Linear(name, layer, site, module.weight.detach(), bias)))
    return found


def sizes(model: nn.Module, ffns: Sequence[GatedFFN]) -> dict[Site, list[int]]:
    """Weight elements by site and layer: of the FFNs, and of those attention linears whose names are known."""
    homes = {_block(ffn.name): layer for layer, ffn in enumerate(ffns)}
    found = {site: [0] * len(ffns) for site in Site}
    for name, module in model.named_modules():
        layer, site = homes.get(_block(name)), _SITES.get(name.rpartition(".")[2])
        if layer is not None and site is not None and isinstance(module, nn.Linear):
            found[site][layer] += module.weight.numel()
    return {site: row for site, row in found.items() if any(row)}


def _block(name: str) -> str | None:
    """`model.layers.3` of `model.layers.3.mlp.gate_proj`."""
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match[0] if match else None
