"""Our decode attention inside the forward of models that do not run fused."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from changes import CHANGES
from families import build
from passes import planned
from regrow.decoding import attention, choose_network, same_logits
from regrow.decoding.attention import DecodeAttention
from regrow.decoding.choose_network import Networks
from regrow.decoding.network import StockNetwork
from regrow.decoding.same_logits import attends_alike

pytestmark = pytest.mark.usefixtures("interpreted")
ATTEND = attention.attend
LENGTHS, COLUMNS = [9, 2], 13
ALIKE = ["llama", "qwen2", "qwen3", "mistral", "phi3", "olmo2", "smollm3", "glm4"]
OTHERS = ["gemma2", "gemma3", "cohere2"]  # some layers attend to a window


@pytest.fixture(autouse=True)
def _short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are slow in the interpreter."""
    monkeypatch.setattr(same_logits, "LONGEST", 12)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Returns ids, mask and positions [2, 13]: left-padded prompts of 9 columns, and what follows them."""
    ids = torch.randint(3, 90, (2, COLUMNS), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(COLUMNS) >= 9 - torch.tensor(LENGTHS)[:, None]).long()
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def logits(model: PreTrainedModel, cache: Any, *, ours: bool) -> Tensor:
    """Returns logits [4, 2, V] after the prompt, a step of one token, one of two and one of one."""
    ids, mask, position = batch()
    attention = DecodeAttention(model, mask[:, :9], 2) if ours else None
    inputs = {
        "attention_mask": mask[:, :9],
        "position_ids": position[:, :9],
        "past_key_values": cache,
        "use_cache": True,
    }
    network = StockNetwork(model, 9, inputs, attention)
    edges = [0, 9, 10, 12, 13]
    with torch.no_grad():
        steps = [
            network.forward(planned(position[:, low:high], decode=low > 0), ids[:, :high])
            for low, high in pairwise(edges)
        ]
    return torch.stack(steps)


@pytest.mark.parametrize(("family", "static"), [("llama", True), *((family, False) for family in ALIKE)])
def test_steps_give_the_models_logits(family: str, static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = build(family), []
    monkeypatch.setattr(attention, "attend", lambda *a, **k: calls.append(1) or ATTEND(*a, **k))

    def cache() -> Any:
        return (
            StaticCache(config=model.config, max_cache_len=COLUMNS)
            if static
            else DynamicCache(config=model.config)
        )

    theirs = logits(model, cache(), ours=False)
    assert not calls
    ours = logits(model, cache(), ours=True)
    assert len(calls) == 3 * model.config.num_hidden_layers
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6  # sums in another order
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ALIKE + OTHERS)
def test_which_families_take_it(family: str) -> None:
    with torch.no_grad():
        assert attends_alike(build(family)) is (family in ALIKE)


def test_a_layer_that_sees_a_part_of_the_text_rules_it_out() -> None:
    """Its attention need not be told: chunks are a matter of the mask, which ours does not get."""
    model = build("phi3")
    model.config.layer_types = ["full_attention", "chunked_attention"]
    with torch.no_grad():
        assert not attends_alike(model)


@pytest.mark.parametrize("odd", ["softcap", "s_aux", "sliding_window", "position_bias"])
def test_attention_with_more_to_it_is_refused(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that passes one of these to its attention keeps its own attention."""
    monkeypatch.setattr(attention, "attend", lambda *a, **k: ATTEND(*a, **{**k, odd: 3.0}))
    model = build("phi3")
    with torch.no_grad():
        assert not attends_alike(model)
    assert model.config._attn_implementation == "sdpa"


def test_values_of_another_width_are_refused() -> None:
    """Attention with latent keys and values has such heads."""
    query, key, lengths = (
        torch.randn(1, 2, 1, 16),
        torch.randn(1, 2, 4, 16),
        torch.zeros(1, dtype=torch.int64),
    )
    with pytest.raises(TypeError, match="another width"):
        attention.attend(
            torch.nn.Identity(), query, key, key[..., :8], None, kv_start=lengths, kv_length=lengths + 3
        )


def without_start(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    kwargs["kv_start"] = torch.zeros_like(kwargs["kv_start"])
    return ATTEND(*args, **kwargs)


def unscaled(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return ATTEND(*args, **{**kwargs, "scaling": 1.0})


@pytest.mark.parametrize("wrong", [without_start, unscaled])
def test_a_model_whose_logits_change_keeps_its_own(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attend", wrong)
    with torch.no_grad():
        assert not attends_alike(build("phi3"))


def given_attention(model: PreTrainedModel, mask: Any = None) -> bool:
    """Returns True if a batch of two rows uses our attention, on a device that is treated as a GPU."""
    networks = Networks(model)
    networks._kernels = True
    positions = torch.arange(3).expand(2, 3)
    inputs = {
        "attention_mask": None if mask is None else torch.tensor(mask),
        "position_ids": positions,
        "past_key_values": DynamicCache(),
    }
    with torch.no_grad():
        network = networks.for_batch(positions, 8, inputs, returned=False)
    assert isinstance(network, StockNetwork)
    return network._attention is not None


def test_a_model_told_to_attend_otherwise_is_left_alone() -> None:
    model = build("phi3")
    assert given_attention(model)
    model.set_attn_implementation("eager")
    assert not given_attention(model)


ATTENTION = [
    "sdpa_registered_anew",
    "sdpa_replaced_in_the_registry",
    "torch_attention_replaced",
    "function_mode",
    "every_call",
]


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_that_is_not_as_shipped_is_not_gone_around(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the logits always passes here, so only the check of the code can refuse."""
    monkeypatch.setattr(choose_network, "attends_alike", lambda _: True)
    model = build("phi3")
    assert given_attention(model)
    with monkeypatch.context() as patch, ExitStack() as stack:
        CHANGES[name](model, patch, stack)
        assert not given_attention(model)
    assert given_attention(model)


def test_nothing_is_cast_under_our_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_network, "attends_alike", lambda _: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not given_attention(build("phi3"))


@pytest.mark.parametrize(
    ("mask", "takes"),
    [(None, True), ([[1, 1, 1], [0, 1, 1]], True), ([[1, 1, 1], [1, 0, 1]], False)],
    ids=["full", "padded", "gap"],
)
def test_batches_whose_columns_have_gaps_keep_the_models_own(mask: Any, takes: bool) -> None:
    assert given_attention(build("phi3"), mask) is takes
