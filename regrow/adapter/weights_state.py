"""Detects that a model's weights have changed since something was derived from them.

The check is cheap enough to run once per batch.

A change of weights can show in three ways. A new Parameter, or new storage (`p.data = ...`, `.to(dtype)`),
changes the identity or the address. An operation in place (`p.add_`, an optimizer, `load_state_dict`) raises
the tensor's version. `p.data.add_()` and writes through a NumPy view do neither, so the contents are read as
well: an exact integer checksum, in one pass over the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, final

import torch
from torch import Tensor, nn

from regrow.kernels import checksum

WORD: Final = 8  # bytes
# Words per chunk. On a CPU a chunk stays in the cache. On other devices chunks are larger, because each one
# costs a few launches.
CHUNK: Final = {"cpu": 1 << 17}
LARGE_CHUNK: Final = 1 << 22


@final
@dataclass(frozen=True)
class Place:
    """Where a tensor lies, and how often it was written in place."""

    identity: int
    address: int
    version: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Place:
        # Tensors made in inference mode do not count versions.
        version = -1 if tensor.is_inference() else tensor._version
        at = id(tensor), tensor.data_ptr(), version
        return cls(*at, tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


@final
@dataclass(frozen=True)
class WeightsState:
    """State of a model's weights.

    While it stays equal, nothing that is derived from the weights has to be computed again.
    """

    places: tuple[Place, ...]
    checksums: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module) -> WeightsState:
        """Returns the state of every parameter and buffer.

        The contents of embeddings are not read, only their places count: they are a large part of a small
        model, and nothing is derived from them.
        """
        tensors, unread = list(_tensors(model)), _embeddings(model)
        return cls(
            tuple(map(Place.of, tensors)), checksums(tensor for tensor in tensors if id(tensor) not in unread)
        )


@torch.no_grad()
def checksums(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Returns a checksum modulo 2^64 of each tensor's bytes, in the order of its elements.

    Each 64-bit word is multiplied by a random coefficient of its position, and the results are summed. So
    swapped, permuted and negated elements show. Integers have no rounding: equal bytes always give equal
    checksums. Tensors on one device cost one synchronisation.
    """
    sums = [_checksum(tensor.detach()) for tensor in tensors]
    return tuple(torch.stack([value.to(sums[0].device) for value in sums]).tolist()) if sums else ()


def _checksum(tensor: Tensor) -> Tensor:
    chunk = CHUNK.get(tensor.device.type, LARGE_CHUNK)
    return checksum(_words(tensor), _coefficients(chunk, tensor.device))


def _words(tensor: Tensor) -> Tensor:
    """Returns the bytes as words [n] int64, as a view if they are aligned and fill whole words.

    Otherwise they are copied and padded with zeros.
    """
    flat = tensor.contiguous().flatten().view(torch.uint8)
    count = max(WORD, -(-len(flat) // WORD) * WORD)
    if count != len(flat) or flat.data_ptr() % WORD:
        flat = torch.cat([flat, flat.new_zeros(count - len(flat))])
    return flat.view(torch.int64)


@cache
def _coefficients(count: int, device: torch.device) -> Tensor:
    """Returns random coefficients [count] int64, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(mode=False):  # they outlive the caller's inference mode
        return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator).to(device)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _embeddings(model: nn.Module) -> set[int]:
    parts = [getattr(model, f"get_{kind}_embeddings", lambda: None)() for kind in ("input", "output")]
    return {id(tensor) for part in parts if isinstance(part, nn.Module) for tensor in _tensors(part)}
