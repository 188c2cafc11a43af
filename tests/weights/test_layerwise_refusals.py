"""What pruning layer by layer refuses before it computes anything, with the message that the user reads."""

from __future__ import annotations

from typing import final

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from families import SIZES, build
from regrow.errors import UsageError
from regrow.weights import WeightPruner
from regrow.weights.layerwise import prune_layers
from regrow.weights.pattern import Pattern
from regrow.weights.sparsegpt_pruner import SparseGPTPruner
from regrow.weights.wanda_pruner import WandaPruner

SEQUENCES = [torch.arange(3, 23)]


@pytest.fixture
def model() -> PreTrainedModel:
    return build("llama")


def wanda(weight: Tensor) -> WeightPruner:
    return WandaPruner(weight, Pattern("2:4"))


def test_no_text(model: PreTrainedModel) -> None:
    with pytest.raises(UsageError, match="no calibration text"):
        prune_layers(model, [], wanda)


@pytest.mark.parametrize("shape", [(0,), (1, 5), ()], ids=str)
def test_what_is_no_sequence(model: PreTrainedModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"calibration sequence 1 has the shape \["):
        prune_layers(model, [*SEQUENCES, torch.zeros(shape, dtype=torch.int64)], wanda)


def test_a_model_in_training_mode(model: PreTrainedModel) -> None:
    with pytest.raises(UsageError, match=r"training mode.*model\.eval\(\)"):
        prune_layers(model.train(), SEQUENCES, wanda)


@pytest.mark.parametrize("name", ["mixtral", "starcoder2", "qwen2_5_vl", "t5gemma"])
def test_a_model_that_regrow_does_not_run(name: str) -> None:
    with pytest.raises(UsageError):
        prune_layers(build(name), SEQUENCES, wanda)


def test_a_linear_that_is_not_ordinary(model: PreTrainedModel) -> None:
    model.model.layers[1].self_attn.o_proj.register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match=r"model\.layers\.1\.self_attn\.o_proj carries forward hooks"):
        prune_layers(model, SEQUENCES, wanda)


def test_a_model_without_a_list_of_layers(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "get_decoder", lambda: model.lm_head)
    with pytest.raises(UsageError, match="Linear has no list of decoder layers"):
        prune_layers(model, SEQUENCES, wanda)


def test_a_model_that_computes_between_its_layers(model: PreTrainedModel) -> None:
    model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    with pytest.raises(UsageError, match="LlamaModel is more than a chain of decoder layers"):
        prune_layers(model, SEQUENCES, wanda)


def test_a_layer_that_is_fed_something_else_besides(model: PreTrainedModel) -> None:
    model.model.layers[0].register_forward_pre_hook(lambda _, args: (*args, None))
    with pytest.raises(UsageError, match="LlamaModel is more than a chain of decoder layers"):
        prune_layers(model, SEQUENCES, wanda)


@final
class Reordered(nn.Module):
    """The decoder of a Llama that runs its layers in another order."""

    def __init__(self, decoder: nn.Module, order: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self._decoder, self._order = decoder.layers, decoder, order

    def forward(self, ids: Tensor, use_cache: bool) -> Tensor:
        x = self._decoder.embed_tokens(ids)
        positions = self._decoder.rotary_emb(x, torch.arange(ids.shape[1])[None])
        for layer in self._order:
            x = self.layers[layer](x, position_embeddings=positions)
        return x


@pytest.mark.parametrize("order", [(1, 0), (0, 1, 1), (0, 0, 1)], ids=str)
def test_layers_that_run_in_another_order(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    monkeypatch.setattr(model, "get_decoder", lambda: Reordered(model.model, order))
    with pytest.raises(UsageError, match="Reordered is more than a chain of decoder layers"):
        prune_layers(model, SEQUENCES, wanda)


def test_a_linear_that_never_runs(model: PreTrainedModel) -> None:
    model.model.layers[1].self_attn.w1 = nn.Linear(32, 32)
    with pytest.raises(UsageError, match=r"model\.layers\.1\.self_attn\.w1 was never run"):
        prune_layers(model, SEQUENCES, SparseGPTPruner)


@pytest.mark.parametrize("start", [wanda, SparseGPTPruner], ids=["wanda", "sparsegpt"])
def test_a_width_that_is_no_multiple_of_four(start: type[WeightPruner]) -> None:
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES | {"intermediate_size": 66})
    ).eval()
    with pytest.raises(UsageError, match=r"model\.layers\.0\.mlp\.down_proj has 66 inputs"):
        prune_layers(model, SEQUENCES, start)
