"""Puts a session in charge of a model, and takes it away without a trace."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from regrow.adapter.patch import Patch
from regrow.adapter.survey import survey
from regrow.core import Blocks, Surface
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
    blocks, modules = survey(model, method.surface, method.sites, skip_layers)
    with Patch() as patch:
        if method.surface is Surface.WEIGHTS and calibration:
            blocks = _with_weights(model, blocks, patch, calibration)
        with torch.inference_mode(mode=False), torch.no_grad():  # its buffers may be written outside of the caller's inference mode
            session = Session(method, blocks, calibration, record_masks=record_masks)
        for place, module in enumerate(modules[: session.pruner.places]):
            patch.replace(module, "forward", partial(session.run, place))
        yield session, patch


def _with_weights(model: nn.Module, blocks: Blocks, patch: Patch, weights: Mapping[str, Tensor]) -> Blocks:
    """Puts the weights in the place of the model's own for as long as the patch lasts; the blocks then count what is not zero."""
    filled = {site: list(row) for site, row in blocks.sizes.items()}
    for place in blocks.linears:
        new = weights[f"{place.name}.weight"].to(place.weight.device, place.weight.dtype)
        patch.replace_parameter(model.get_submodule(place.name), "weight", nn.Parameter(new, requires_grad=False))
        filled[place.site][place.layer] -= int((new == 0).sum())
    return replace(blocks, filled=filled)
