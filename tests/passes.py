"""Runs passes whose tokens never count through a network of the decode loop."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from regrow.core import Mode, Pass
from regrow.decoding.network import Network


def planned(position: Tensor, *, decode: bool = False, mode: Mode = Mode.DENSE) -> Pass:
    """Return a pass over tokens at `position` [B, w], of a prompt or of a decode step."""
    return Pass(mode, torch.full_like(position, -1).flatten(), position, prompt=not decode, decode=decode)


def run(
    network: Network,
    ids: Tensor,
    position: Tensor,
    length: int,
    *,
    decode: bool = False,
    key: Hashable | None = None,
    every: bool = False,
) -> Tensor:
    """Return the logits [B, V] after the tokens ids [B, w] at `position`, or [B, w, V] after each."""
    return network.forward(planned(position, decode=decode), ids, length=length, key=key, every=every)
