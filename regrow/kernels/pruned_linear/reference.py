"""The masked linear layer in plain PyTorch: the definition that its implementations are tested against."""

from __future__ import annotations

from torch import Tensor


def masked_linear(x: Tensor, weight_t: Tensor, keep: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns y [T, out] of x [T, in], computed from the inputs `keep` [in] bool only (TEAL, WINA).

    `weight_t` is input-major, [in, out].
    """
    y = x[:, keep] @ weight_t[keep]
    return y if bias is None else y + bias
