"""Puts a session in charge of a model, and takes it away without a trace."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from regrow.adapter.find import find_ffns
from regrow.adapter.linears import find_linears, sizes
from regrow.adapter.patch import Patch
from regrow.core import Blocks, Surface
from regrow.errors import UsageError
from regrow.method.base import Method
from regrow.session import Session


@contextmanager
def attach(
    model: nn.Module,
    method: Method,
    skip_layers: Collection[int] = (),
    calibration: Mapping[str, Tensor] | None = None,
    *,
    record_masks: bool = False,
) -> Iterator[tuple[Session, Patch]]:
    """A session that runs what the method changes of the model, but for `skip_layers`, while the context lasts; more may be patched
    through the Patch."""
    blocks, modules = survey(model, method, skip_layers)
    with Patch() as patch:
        if method.surface is Surface.WEIGHTS and calibration:
            blocks = _with_weights(model, blocks, patch, calibration)
        with torch.inference_mode(mode=False), torch.no_grad():  # its buffers may be written outside of the caller's inference mode
            session = Session(method, blocks, calibration, record_masks=record_masks)
        if session.pruner is not None:
            for place, module in enumerate(modules):
                patch.replace(module, "forward", partial(session.run, place))
        yield session, patch


def survey(
    model: nn.Module, method: Method, skip_layers: Collection[int] = (), *, every_site: bool = False
) -> tuple[Blocks, list[nn.Module]]:
    """What the method may act on, and the modules of its surface in the order of their places; with `every_site` also the linears that
    this method could prune and does not. Raises UsageError for a model or for layers that do not fit."""
    ffns = find_ffns(model)
    outside = [layer for layer in skip_layers if not 0 <= layer < len(ffns)]
    if outside:
        raise UsageError(f"skip_layers names layer {outside[0]}, but the model has layers 0 to {len(ffns) - 1}")
    layers = [layer for layer in range(len(ffns)) if layer not in skip_layers]
    if not layers:
        raise UsageError("skip_layers leaves no layer to prune; use the dense method instead")
    whole = sizes(model, ffns)
    linears = []
    if method.surface in (Surface.INPUTS, Surface.WEIGHTS):
        linears = [(m, of) for m, of in find_linears(model, ffns) if of.layer in layers and (every_site or of.site in method.sites)]
    blocks = Blocks(layers, [ffns[layer] for layer in layers], [of for _, of in linears], whole, whole)
    on_inputs = method.surface is Surface.INPUTS
    return blocks, [module for module, _ in linears] if on_inputs else [ffns[layer].module for layer in layers]


def _with_weights(model: nn.Module, blocks: Blocks, patch: Patch, weights: Mapping[str, Tensor]) -> Blocks:
    """Puts the weights in the place of the model's own for as long as the patch lasts; the blocks then count what is not zero."""
    filled = {site: list(row) for site, row in blocks.sizes.items()}
    for place in blocks.linears:
        new = weights[f"{place.name}.weight"].to(place.weight.device, place.weight.dtype)
        patch.replace_parameter(model.get_submodule(place.name), "weight", nn.Parameter(new, requires_grad=False))
        filled[place.site][place.layer] -= int((new == 0).sum())
    return replace(blocks, filled=filled)
