"""Whether a model's weights are still those that something was derived from: a cheap look, once a batch.

A change of weights can show in three ways. A new Parameter, or new storage (`p.data = ...`, `.to(dtype)`),
shows in its identity or address. An operation in place (`p.add_`, an optimizer, `load_state_dict`) raises the
tensor's version. `p.data.add_()` and writes through a NumPy view do neither, so that the contents are read as
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
# Words at a time: on a CPU they stay in its cache; elsewhere they are more, since each chunk costs a few launches.
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
        # Tensors that were made in inference mode do not count their versions.
        version = -1 if tensor.is_inference() else tensor._version
        at = id(tensor), tensor.data_ptr(), version
        return cls(*at, tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


@final
@dataclass(frozen=True)
class WeightsState:
    """Equal states of one model: nothing that is derived from its weights has to be made again."""

    places: tuple[Place, ...]
    checksums: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module) -> WeightsState:
        """The state of every parameter and buffer.

        Embeddings are a large part of a small model, and nothing is derived from them: they are not read, and
        only their places count.
        """
        tensors, unread = list(_tensors(model)), _embeddings(model)
        return cls(
            tuple(map(Place.of, tensors)), checksums(tensor for tensor in tensors if id(tensor) not in unread)
        )


@torch.no_grad()
def checksums(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """A checksum modulo 2^64 of each tensor's bytes, in the order of its elements. The host waits once if all are on one device.

    Words of 64 bits are multiplied with a random coefficient for each place and summed, so that swapped,
    permuted and negated elements show. Integers have no rounding: the same bytes always give the same
    checksum.
    """
    sums = [_checksum(tensor.detach()) for tensor in tensors]
    return tuple(torch.stack([value.to(sums[0].device) for value in sums]).tolist()) if sums else ()


def _checksum(tensor: Tensor) -> Tensor:
    chunk = CHUNK.get(tensor.device.type, LARGE_CHUNK)
    return checksum(_words(tensor), _coefficients(chunk, tensor.device))


def _words(tensor: Tensor) -> Tensor:
    """The bytes as words [n] int64; copied, and filled up with zeros, where they are no whole number of words or not aligned."""
    flat = tensor.contiguous().flatten().view(torch.uint8)
    count = max(WORD, -(-len(flat) // WORD) * WORD)
    if count != len(flat) or flat.data_ptr() % WORD:
        flat = torch.cat([flat, flat.new_zeros(count - len(flat))])
    return flat.view(torch.int64)


@cache
def _coefficients(count: int, device: torch.device) -> Tensor:
    """[count] int64, random, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(mode=False):  # they outlive the caller's inference mode
        return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator).to(device)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _embeddings(model: nn.Module) -> set[int]:
    parts = [getattr(model, f"get_{kind}_embeddings", lambda: None)() for kind in ("input", "output")]
    return {id(tensor) for part in parts if isinstance(part, nn.Module) for tensor in _tensors(part)}
