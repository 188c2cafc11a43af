"""Finds the parts of a model that a method may act on."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from regrow.adapter.find import find_ffns
from regrow.adapter.linears import find_linears, sizes
from regrow.core import Blocks, Site, Surface
from regrow.errors import UsageError


def survey(
    model: nn.Module, surface: Surface, sites: Collection[Site], skip_layers: Collection[int] = ()
) -> tuple[Blocks, list[nn.Module]]:
    """Returns the layers that are not skipped, and the modules that a method of this surface may patch.

    The modules are linear layers for `Surface.INPUTS`, and whole FFNs otherwise. Only linear layers at
    `sites` are included. Raises UsageError for a model or for layers that do not fit.
    """
    ffns = find_ffns(model)
    outside = [layer for layer in skip_layers if not 0 <= layer < len(ffns)]
    if outside:
        raise UsageError(
            f"skip_layers names layer {outside[0]}, but the model has layers 0 to {len(ffns) - 1}"
        )
    layers = [layer for layer in range(len(ffns)) if layer not in skip_layers]
    if not layers:
        raise UsageError("skip_layers leaves no layer to prune; use the dense method instead")
    whole = sizes(model, ffns)
    linears = []
    if surface in (Surface.INPUTS, Surface.WEIGHTS):
        linears = [
            (m, linear)
            for m, linear in find_linears(model, ffns)
            if linear.layer in layers and linear.site in sites
        ]
    blocks = Blocks(
        layers, [ffns[layer] for layer in layers], [linear for _, linear in linears], whole, whole
    )
    on_inputs = surface is Surface.INPUTS
    return blocks, [module for module, _ in linears] if on_inputs else [
        ffns[layer].module for layer in layers
    ]
