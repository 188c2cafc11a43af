"""The state of a model's weights shows every change of them, and does not change otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from batches import arguments, prompts
from families import FAMILIES, build
from regrow.adapter.weights_state import WeightsState, checksums


def mlp(model: PreTrainedModel) -> nn.Module:
    return model.model.layers[1].mlp


def weight(model: PreTrainedModel) -> nn.Parameter:
    return mlp(model).up_proj.weight


def in_place(model: PreTrainedModel) -> None:
    with torch.no_grad():
        weight(model)[3, 5] += 1e-3


def through_data(model: PreTrainedModel) -> None:
    weight(model).data.add_(1e-3)


def through_numpy(model: PreTrainedModel) -> None:
    weight(model).detach().numpy()[7, 2] *= 2


def data_replaced(model: PreTrainedModel) -> None:
    weight(model).data = weight(model).data.clone()


def new_parameter(model: PreTrainedModel) -> None:
    mlp(model).up_proj.weight = nn.Parameter(weight(model).detach().clone())


def shared_parameter(model: PreTrainedModel) -> None:
    mlp(model).up_proj.weight = mlp(model).gate_proj.weight


def new_linear(model: PreTrainedModel) -> None:
    mlp(model).up_proj = nn.Linear(*reversed(weight(model).shape), bias=False)


def loaded(model: PreTrainedModel) -> None:
    model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})


def loaded_by_assignment(model: PreTrainedModel) -> None:
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)


def other_dtype(model: PreTrainedModel) -> None:
    model.to(torch.bfloat16)


def other_dtype_and_back(model: PreTrainedModel) -> None:
    model.to(torch.bfloat16).to(torch.float32)


def optimizer_step(model: PreTrainedModel) -> None:
    model(torch.tensor([[3, 5, 7]])).logits.sum().backward()
    torch.optim.SGD([model.model.norm.weight], lr=1e-3).step()


def swapped_rows(model: PreTrainedModel) -> None:
    weight(model).data[[2, 9]] = weight(model).data[[9, 2]]


def permuted_neurons(model: PreTrainedModel) -> None:
    """The FFN computes the same as before, but what was derived for a neuron's index is wrong."""
    order = torch.arange(len(weight(model))).roll(1)
    for part in (mlp(model).gate_proj, mlp(model).up_proj):
        part.weight.data.copy_(part.weight.data[order])
    mlp(model).down_proj.weight.data.copy_(mlp(model).down_proj.weight.data[:, order])


def swapped_columns(model: PreTrainedModel) -> None:
    mlp(model).down_proj.weight.data[:, [1, 5]] = mlp(model).down_proj.weight.data[:, [5, 1]]


def negated(model: PreTrainedModel) -> None:
    weight(model).data.neg_()


def norm_of_a_layer(model: PreTrainedModel) -> None:
    model.model.layers[0].input_layernorm.weight.data[4] += 0.5


def rotary_buffer(model: PreTrainedModel) -> None:
    model.model.rotary_emb.inv_freq.data.mul_(0.5)


def embedding_in_place(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1)


CHANGES = [
    in_place,
    through_data,
    through_numpy,
    data_replaced,
    new_parameter,
    shared_parameter,
    new_linear,
    loaded,
    loaded_by_assignment,
]
CHANGES += [
    other_dtype,
    other_dtype_and_back,
    optimizer_step,
    swapped_rows,
    permuted_neurons,
    swapped_columns,
    negated,
]
CHANGES += [norm_of_a_layer, rotary_buffer, embedding_in_place]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_of_weights_shows(change: Callable[[PreTrainedModel], None]) -> None:
    model = build("qwen2")
    before = WeightsState.of(model)
    change(model)
    assert WeightsState.of(model) != before


@pytest.mark.parametrize("family", FAMILIES)
def test_what_only_runs_changes_nothing(family: str) -> None:
    model = build(family)
    before = WeightsState.of(model)
    model.generate(**arguments(prompts(2), max_new_tokens=3))
    model.state_dict()
    with torch.inference_mode():
        assert WeightsState.of(model) == before
    assert WeightsState.of(model) == before


def test_a_model_made_in_inference_mode_is_read_as_well() -> None:
    with torch.inference_mode():
        model = build("llama")
        before = WeightsState.of(model)
        assert WeightsState.of(model) == before
        weight(model)[0, 0] += 1  # no version is counted
    assert WeightsState.of(model) != before


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int8,
    torch.bool,
]


def edits(bits: Tensor) -> Iterator[Tensor]:
    """Yields copies of bytes [n, w] with one, two or many elements changed."""
    for rows in ([0], [1, 3], [3, 7], [3, 7, 11, 15], slice(None)):
        flipped = bits.clone()
        flipped[rows, -1] ^= 128  # the sign bit; in some dtypes an ordinary bit
        yield flipped
        moved = bits.clone()
        moved[rows] = bits[rows].roll(1, 0) if len(bits[rows]) > 1 else ~bits[rows]
        yield moved


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [16, 17, 64])
def test_signs_exponents_and_places_of_elements_count(dtype: torch.dtype, count: int) -> None:
    """Pairs and fours of elements at the top of a word count as well, although their products overflow."""
    size = torch.empty(0, dtype=dtype).element_size()
    bits = torch.randint(
        0,
        2 if dtype is torch.bool else 256,
        (count, size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )
    (before,) = checksums([bits.view(dtype)])
    assert checksums([bits.clone().view(dtype)]) == (before,)
    changed = [checksums([edited.view(dtype)])[0] for edited in edits(bits) if not torch.equal(edited, bits)]
    assert len(changed) >= 6
    assert before not in changed


def test_views_are_read_in_the_order_of_their_elements() -> None:
    """Layout and offset do not matter.

    The views are transposed, part of another tensor, unaligned, empty, a scalar, and longer than a chunk.
    """
    whole = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    parts = [whole.t(), whole[3:9], whole[:, 1:4], whole.flatten()[3:8], whole[:0], whole[2, 2]]
    assert checksums(parts) == checksums(
        [part.clone(memory_format=torch.contiguous_format) for part in parts]
    )
    assert len(set(checksums(parts))) == len(parts)
    long = torch.zeros(3 << 17, dtype=torch.int64)
    before = checksums([long])
    long[[5, 5 + (1 << 17)]] = torch.tensor([1, -1])  # at the same offset of two chunks
    assert checksums([long]) != before
    assert checksums([]) == ()
