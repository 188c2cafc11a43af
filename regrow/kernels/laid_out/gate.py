"""Gate and up of an FFN with laid-out weights (CPU)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, final

from torch import Tensor

from regrow.kernels.cpu_library import LONG, POINTER, Kernel
from regrow.kernels.gate import cpu, reference
from regrow.kernels.laid_out.weight import LaidOutWeight, address

_GATED_ROWS: Final = Kernel("gated_rows", *[POINTER] * 6, *[LONG] * 3)


@final
class LaidOutGate:
    """Computes act(gate x) * up x.

    With few rows and SiLU it runs as one kernel, so that neither of the two factors is written to memory.
    """

    def __init__(
        self,
        gate: LaidOutWeight,
        up: LaidOutWeight,
        biases: tuple[Tensor | None, Tensor | None],
        act: Callable[[Tensor], Tensor],
    ) -> None:
        self._gate, self._up, self._biases = gate, up, biases
        silu = reference.activation(act) == "silu"
        self._most = min(gate.most, up.most) if silu else 0
        compiled = silu and cpu.KERNEL.get(gate.dtype) is not None
        self._gated = cpu.gated if compiled else partial(reference.gated, act)

    def __call__(self, x: Tensor) -> Tensor:
        """Computes the hidden activations [..., F] of x [..., D]."""
        rows, gate, up = x.shape[:-1].numel(), self._gate, self._up
        if (
            not 0 < rows <= self._most
            or not gate.takes(x, self._biases[0])
            or not up.takes(x, self._biases[1])
        ):
            return self._gated(gate(x, self._biases[0]), up(x, self._biases[1]))
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], gate.shape[0])
        parts = gate.address, address(self._biases[0]), up.address, address(self._biases[1])
        _GATED_ROWS[x.dtype](x.data_ptr(), *parts, y.data_ptr(), rows, *gate.shape)
        return y
