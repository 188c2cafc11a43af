"""Gate and up of an FFN in plain PyTorch: the definition that the kernel is tested against."""

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
    """The kernels' name of an activation, by what it computes; None for one that they do not have."""
    x = torch.cat(
        [torch.linspace(-8, 8, 257), torch.tensor([-256.0, -64.0, -16.0, 16.0, 64.0, 256.0])]
    )  # some are clamped further out
    return next(
        (
            name
            for name, known in _ACTIVATIONS.items()
            if torch.allclose(act(x), known(x), rtol=1e-5, atol=1e-6)
        ),
        None,
    )


def gated(act: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
    """act(gate) * up, by elements, each of the two rounded to the type of the gate."""
    return act(gate) * up
