"""silu(gate) * up: the CPU kernel against the reference."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from kernels.compiled_here import COMPILED
from regrow.kernels.gate import cpu
from regrow.kernels.gate.reference import gated as reference

# e^x is off by at most two units in the last place. So a bfloat16 value may round to its neighbour, once
# before and once after the multiplication.
UNITS = {torch.float32: 4 * 2**-23, torch.bfloat16: 2 * 2**-7}
VALUES = torch.cat(
    [
        torch.linspace(-200, 200, 20001),
        torch.linspace(-1e-3, 1e-3, 1001),
        torch.tensor([0.0, -0.0, 1e30, -1e30]),
    ]
)


@COMPILED
@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("numbers", [1, 15, 17, 4096, 4097, 3 * 4096 + 5, len(VALUES)])
def test_silu_of_the_gate_times_up(numbers: int, dtype: torch.dtype) -> None:
    gate = VALUES[torch.arange(numbers) * (len(VALUES) // numbers)].to(dtype)
    up = torch.randn(numbers, generator=torch.Generator().manual_seed(0)).to(dtype)
    # Results below 1e-34 may be zero.
    torch.testing.assert_close(cpu.gated(gate, up), reference(silu, gate, up), rtol=UNITS[dtype], atol=1e-34)


@COMPILED
def test_what_is_no_number_stays_none() -> None:
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    for dtype in UNITS:
        gate = odd.to(dtype)
        torch.testing.assert_close(
            cpu.gated(gate, gate), reference(silu, gate, gate), rtol=UNITS[dtype], atol=0, equal_nan=True
        )


@COMPILED
def test_refuses_what_it_would_read_wrongly() -> None:
    x = torch.ones(4, 6)
    with pytest.raises(ValueError, match="contiguous"):
        cpu.gated(x.t(), x.t())
    with pytest.raises(TypeError, match="of type"):
        cpu.gated(x, x.bfloat16())
