"""act(gate) * up in plain PyTorch: the definition that the kernels are tested against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}


def activation(act: Callable[[Tensor], Tensor]) -> str | None:
    """Identifies an activation by evaluating it. Returns the kernels' name for it, or None."""
    # The large values tell apart activations that are clamped.
    x = torch.cat([torch.linspace(-8, 8, 257), torch.tensor([-256.0, -64.0, -16.0, 16.0, 64.0, 256.0])])
    return next(
        (
            name
            for name, known in _ACTIVATIONS.items()
            if torch.allclose(act(x), known(x), rtol=1e-5, atol=1e-6)
        ),
        None,
    )


def gated(act: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
    """Returns act(gate) * up, elementwise. Activation and result are rounded to the dtype of the gate."""
    return act(gate) * up
