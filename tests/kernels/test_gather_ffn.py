"""The Triton kernels behind the interfaces that methods use: a sparse FFN and a masked linear layer."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, relu, silu
from transformers.activations import ACT2FN

from regrow.core import FFNWeights
from regrow.kernels.gate.reference import activation
from regrow.kernels.pruned_ffn import reference as ffn_reference
from regrow.kernels.pruned_ffn.gather import GatherFFN
from regrow.kernels.pruned_linear import reference as linear_reference
from regrow.kernels.pruned_linear.input_major import InputMajorLinear

NEURONS, WIDTH, KEEP = 40, 24, 17


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_activations_are_known_by_what_they_compute() -> None:
    named = {
        name: activation(ACT2FN[name])
        for name in ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
    }
    assert named == {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
    }
    assert [activation(ACT2FN[name]) for name in ("relu2", "tanh", "quick_gelu")] == [None] * 3


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("name", "act"), [("silu", silu), ("gelu", gelu), ("relu", relu)])
def test_a_sparse_ffn_of_any_number_of_rows(name: str, act: object, biased: bool) -> None:
    """Uses more rows than the kernels take at once, and an index that is replaced in place."""
    biases = (random(4, NEURONS), random(5, NEURONS), random(6, WIDTH)) if biased else (None, None, None)
    weights = FFNWeights(
        random(1, NEURONS, WIDTH), random(2, NEURONS, WIDTH), random(3, WIDTH, NEURONS), act, *biases
    )
    ffn = GatherFFN(weights, name, KEEP)
    index = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(7))
    for some in (index[:KEEP].sort().values, index[-KEEP:].sort().values):
        assert ffn.load(some) == 0
        for shape in ((1, 1), (3, 1), (70, 1), (2, 3)):
            x = random(8, *shape, WIDTH)
            want = ffn_reference.sparse_ffn(weights, some, x.view(-1, WIDTH)).view(x.shape)
            # Sums of up to 24 terms of about one, in another order.
            torch.testing.assert_close(ffn(x), want, rtol=1e-4, atol=1e-4)
    assert ffn.state_bytes == 4 * NEURONS * WIDTH + 8 * 32  # the index is padded to a multiple of 16


def test_a_masked_linear_of_any_number_of_rows() -> None:
    weight, bias, keep = random(1, NEURONS, WIDTH), random(2, NEURONS), random(3, WIDTH) > 0
    linear = InputMajorLinear(weight, bias)
    for shape in ((1, 1), (70, 1), (2, 3)):
        x = random(4, *shape, WIDTH)
        want = linear_reference.masked_linear(x.view(-1, WIDTH), weight.t(), keep, bias).view(*shape, NEURONS)
        torch.testing.assert_close(linear(x, keep), want, rtol=1e-4, atol=1e-4)
