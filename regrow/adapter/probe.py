"""Checks on random inputs that a module computes what its attribute names promise.

Names are not enough: BitNet has a norm before down, Falcon-H1 has multipliers and others have clamps, all
under the names of an ordinary gated FFN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from regrow.core import FFNWeights

# The larger of |gate x| and |up x| in each row, within a factor of two. The clamps in use lie near 10. At 32,
# even a squared activation stays in the range of float16. Rows that leave the range are only required to do
# so on both sides.
_PEAKS: Final = (1.0, 1.0, 32.0, 32.0, 256.0, 256.0)

_FORMULA: Final = "down(act(gate x) * up x)"
_REMEDY: Final = "use a model whose FFNs are exactly that"


def mismatch(
    module: nn.Module,
    weights: FFNWeights,
    hidden: Callable[[Tensor], Tensor],
    output: Callable[[Tensor], Tensor],
) -> str | None:
    """Describes how `module` differs from its `weights`; None if it does not.

    `module` is compared with output(hidden(x)), and `hidden` with what `weights` give. Reads the weights less
    than three times for six rows of input, and leaves the global random state alone. Autocast is switched
    off, because it would make the module compute in another dtype than it stores.
    """
    with torch.no_grad(), torch.autocast(weights.gate.device.type, enabled=False):
        x, gate, up = _inputs(weights)
        if not _elementwise(weights.act, gate):
            return (
                f"has an activation that mixes neurons or changes shapes, so it is not {_FORMULA}; {_REMEDY}"
            )
        try:
            theirs = module(x)
        except TypeError as error:
            return f"cannot be called on its input alone ({error}), so it is not {_FORMULA}; {_REMEDY}"
        z = hidden(x)
        difference = _distance(z, weights.act(gate) * up)
        if difference <= _tolerance(weights, 4.0):
            difference = _distance(output(z), theirs)
            if difference <= _tolerance(weights, 0.25):
                return None
    return (
        f"computes something else than {_FORMULA} "
        f"(relative difference {difference:.1g} on random inputs); {_REMEDY}"
    )


def _tolerance(weights: FFNWeights, roundings: float) -> float:
    """Returns the difference that rounding alone can make, relative to the norm of a row.

    Two evaluations are compared. A sum of n terms in another order differs by about sqrt(n) units of the
    dtype it is accumulated in (times 8 for safety). `roundings` to the stored dtype come on top. The module
    and output(hidden) run the same operations on the same shapes, so only single elements could differ. A
    quarter of a unit of the norm allows for that, and a factor of 1.004 is still noticed in bfloat16. A fused
    matmul and its two halves may each round gate, up, activation and z, which makes four units.
    """
    stored = torch.finfo(weights.gate.dtype).eps
    accumulated = min(stored, torch.finfo(torch.float32).eps)
    return roundings * stored + 8 * math.sqrt(max(weights.gate.shape)) * accumulated


def _inputs(weights: FFNWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Returns random x [1, R, D] whose rows reach the peaks, with gate x and up x [1, R, F].

    gate x and up x include the biases.
    """
    shape, generator = (1, len(_PEAKS), weights.gate.shape[1]), torch.Generator().manual_seed(0)
    # Device and dtype are given, because a caller may have changed the defaults.
    noise = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
    x = noise.to(weights.gate.device, weights.gate.dtype)
    gate, up = linear(x, weights.gate), linear(x, weights.up)
    reached = torch.maximum(gate.abs().amax(-1), up.abs().amax(-1)).flatten().tolist()
    scale = x.new_tensor([_power(peak, seen, x) for peak, seen in zip(_PEAKS, reached, strict=True)])[:, None]
    gate, up = gate * scale, up * scale
    gate = gate if weights.gate_bias is None else gate + weights.gate_bias
    up = up if weights.up_bias is None else up + weights.up_bias
    return x * scale, gate, up


def _power(peak: float, seen: float, x: Tensor) -> float:
    """Returns the power of two that brings `seen` to between half of `peak` and `peak`.

    It is smaller if the dtype of x does not allow that much. Scaling x by a power of two is exact, so gate x
    need not be computed again and the weights are read once.
    """
    largest = torch.finfo(x.dtype).max / 16  # the noise stays below 16
    return 2.0 ** math.floor(math.log2(min(peak / seen, largest))) if 0 < seen < math.inf else 1.0


def _elementwise(act: Callable[[Tensor], Tensor], gate: Tensor) -> bool:
    """Returns True if act maps every element by itself, independent of its neighbours and its position.

    act of a reordered part has to equal that part of act.
    """
    whole = act(gate)
    if whole.shape != gate.shape or whole.dtype != gate.dtype:
        return False
    part = (..., slice(0, None, 2), torch.arange(gate.shape[-1] - 1, -1, -2, device=gate.device))
    # Vectorised and scalar code of one function may differ in the last bits.
    return torch.allclose(act(gate[part]), whole[part], rtol=8 * torch.finfo(gate.dtype).eps, atol=0.0)


def _distance(ours: Tensor, theirs: object) -> float:
    """Returns the largest relative distance between rows of [..., n].

    It is infinite if shapes or dtypes differ, or if a row is not finite on one side only.
    """
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return math.inf
    a, b = ours.double(), theirs.double()
    finite = a.isfinite().all(-1)
    if not torch.equal(finite, b.isfinite().all(-1)):
        return math.inf
    ratio = (a - b).norm(dim=-1) / a.norm(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    return float(ratio.where(finite, 0.0).max())
