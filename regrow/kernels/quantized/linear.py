"""Linear layers and FFNs over weights of 4 or 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import linear

from regrow.core import FFNWeights
from regrow.kernels.gate import reference
from regrow.kernels.quantized.codes import Codes
from regrow.kernels.quantized.cpu import Packed


class QuantizedWeight(Protocol):
    """A weight [out, in] of a few bits, in the form that a device multiplies."""

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        ...

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Computes y [..., out] of x [..., in]."""
        ...


@final
class Expanded:
    """The rounded weight in the dtype of the model. It works everywhere, and saves no bytes."""

    def __init__(self, codes: Codes, dtype: torch.dtype) -> None:
        self._weight = codes.expanded(dtype)

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, self._weight, bias)


def multiplies_codes(device: torch.device, dtype: torch.dtype) -> bool:
    """Returns True if there are kernels for codes that were measured on such a device, for this dtype."""
    return device.type == "cpu" and Packed.multiplies(dtype)


def packs(codes: Codes, dtype: torch.dtype) -> bool:
    """Returns True if these codes can be multiplied as they are, so that they save bytes."""
    return Packed.fits(codes, dtype)


def packed(codes: Codes, dtype: torch.dtype) -> QuantizedWeight:
    """Returns the codes as a weight for inputs of `dtype`, on the device of the codes."""
    return Packed(codes) if packs(codes, dtype) else Expanded(codes, dtype)


@final
@dataclass(frozen=True)
class QuantizedLinear:
    """A linear layer over a weight of a few bits."""

    weight: QuantizedWeight
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., out] of x [..., in]."""
        return self.weight(x, self.bias)


@final
class QuantizedFFN:
    """A gated FFN, down(act(gate x) * up x), over weights of a few bits."""

    def __init__(self, weights: FFNWeights, round_to_codes: Callable[[Tensor], Codes]) -> None:
        gate, up, down = (
            packed(round_to_codes(weight), weight.dtype)
            for weight in (weights.gate, weights.up, weights.down)
        )
        self._gate, self._up, self._down, self._act = gate, up, down, weights.act
        self._biases, self._down_bias = (weights.gate_bias, weights.up_bias), weights.down_bias
        self._silu = reference.activation(weights.act) == "silu"

    @property
    def state_bytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        return self._gate.nbytes + self._up.nbytes + self._down.nbytes

    def keeping(self, keep: int) -> None:
        """Returns None: a tile holds the weights of 64 neurons, and is read as a whole."""

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D]."""
        if self._silu and isinstance(self._gate, Packed) and isinstance(self._up, Packed):
            hidden = self._gate.gated(self._up, x, self._biases)
        else:
            hidden = reference.gated(self._act, self._gate(x, self._biases[0]), self._up(x, self._biases[1]))
        return self._down(hidden, self._down_bias)
