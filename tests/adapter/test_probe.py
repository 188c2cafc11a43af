"""Modules with the attribute names of a gated FFN but other maths are refused at every dtype.

Ordinary modules pass at every scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, softmax
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from families import LAYERS, build
from refusing import refusal
from regrow.adapter.find import find_ffns

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("std", [1e-4, 0.02, 3.0])
@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2", "squared", "biases"])
def test_the_probe_passes_at_every_type_and_scale(name: str, std: float, dtype: torch.dtype) -> None:
    model = build(name)
    for parameter in model.model.layers.parameters():
        parameter.data *= std / 0.2
    assert len(find_ffns(model.to(dtype))) == LAYERS


def test_a_block_that_adds_nothing_yet_is_accepted() -> None:
    model = build("llama")  # depth-expanded models start new blocks at down = 0
    model.model.layers[1].mlp.down_proj.weight.data.zero_()
    assert len(find_ffns(model)) == LAYERS


class ClampedGate(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=10.0)) * self.up_proj(x))


class ClampedUp(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x).clamp(-10.0, 10.0))


class Scaled(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 1.004 * super().forward(x)


class Swapped(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


class UpFirst(Phi3MLP):
    def forward(self, hidden_states: Tensor) -> Tensor:
        up, gate = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(up * self.activation_fn(gate))


class Sparse(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(self.act_fn(torch.relu(gate - gate.std(-1, keepdim=True))) * self.up_proj(x))


class Dropping(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(super().forward(x), 0.1)


class Pair(LlamaMLP):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return super().forward(x), None


class Residual(LlamaMLP):
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return super().forward(x) + residual


class Broken(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


OTHER_MATHS = [ClampedGate, ClampedUp, Scaled, Swapped, UpFirst, Sparse, Dropping, Pair, Residual, Broken]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", OTHER_MATHS)
def test_refuses_other_maths(kind: type[nn.Module], dtype: torch.dtype) -> None:
    model = build("phi3" if issubclass(kind, Phi3MLP) else "llama", dtype)
    model.model.layers[1].mlp.__class__ = kind
    message = refusal(model)
    assert message.startswith(f"model.layers.1.mlp ({kind.__name__}) ")
    assert "down(act(gate x) * up x)" in message


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_clamp_shows_through_small_weights(dtype: torch.dtype) -> None:
    model = build("llama")
    mlp = model.model.layers[1].mlp
    mlp.__class__ = ClampedGate
    for parameter in mlp.parameters():
        parameter.data *= 1e-2
    assert "computes something else" in refusal(model.to(dtype))


def _activations() -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    yield "mixes neurons", lambda gate: softmax(gate, dim=-1)
    yield "mixes rows", lambda gate: gate - gate.mean(-2, keepdim=True)
    yield "shifts neurons", lambda gate: gate.roll(1, dims=-1)
    yield "depends on the place", lambda gate: gate * torch.arange(gate.shape[-1], dtype=gate.dtype)
    yield "changes the shape", lambda gate: gate[..., :1]
    yield "changes the type", lambda gate: gate.double()


@pytest.mark.parametrize("act", [pytest.param(act, id=name) for name, act in _activations()])
def test_refuses_an_activation_that_is_not_elementwise(act: Callable[[Tensor], Tensor]) -> None:
    model = build("llama")
    del model.model.layers[1].mlp.act_fn
    model.model.layers[1].mlp.act_fn = act
    assert "model.layers.1.mlp (LlamaMLP) has an activation that mixes neurons or changes shapes" in refusal(
        model
    )
