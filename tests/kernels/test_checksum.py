"""Checksums: the CPU kernel agrees with the reference bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.compiled_here import COMPILED
from regrow.kernels.checksums import cpu, reference

LEAST, MOST = -(2**63), 2**63 - 1


@COMPILED
@given(count=st.integers(1, 400), chunk=st.integers(20, 100), seed=st.integers(0, 99))
def test_is_the_references(count: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    words, factors = (torch.randint(LEAST, MOST, (number,), generator=generator) for number in (count, chunk))
    words[:2] = torch.tensor([LEAST, MOST])[: len(words)]
    assert int(cpu.checksum(words, factors)) == int(reference.checksum(words, factors))


@COMPILED
def test_refuses_what_it_would_read_wrongly() -> None:
    words = torch.ones(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="contiguous"):
        cpu.checksum(words[::2], words)
    with pytest.raises(ValueError, match="5 words take more than 2 factors"):
        cpu.checksum(words[:5], words[:2])
    with pytest.raises(TypeError, match="of type"):
        cpu.checksum(words.double(), words)
