"""Puts a session in charge of a model's FFNs, and takes it away without a trace."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn

from regrow.adapter.find import find_ffns
from regrow.adapter.patch import Patch
from regrow.errors import UsageError
from regrow.method.base import Method
from regrow.session import Session


@contextmanager
def attach(
    model: nn.Module, method: Method, skip_layers: Collection[int] = (), *, record_masks: bool = False
) -> Iterator[tuple[Session, Patch]]:
    """A session that runs the model's FFNs, but for `skip_layers`, while the context lasts; more may be patched through the Patch."""
    ffns = find_ffns(model)
    outside = [layer for layer in skip_layers if not 0 <= layer < len(ffns)]
    if outside:
        raise UsageError(f"skip_layers names layer {outside[0]}, but the model has layers 0 to {len(ffns) - 1}")
    pruned = [ffn for i, ffn in enumerate(ffns) if i not in skip_layers]
    if not pruned:
        raise UsageError("skip_layers leaves no layer to prune; use the dense method instead")
    session = Session(method, pruned, [ffn for i, ffn in enumerate(ffns) if i in skip_layers], record_masks=record_masks)
    with Patch() as patch:
        for layer, ffn in enumerate(pruned):
            patch.replace(ffn.module, "forward", partial(session.run, layer))
        yield session, patch
