"""`prune` and `generate` on Hugging Face models: dense runs equal stock; unsupported calls are refused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

import regrow
from batches import arguments, ends, new_tokens, prompts
from fakes import Parts
from families import FAMILIES, LAYERS, NEURONS, REFUSED, STRUCTURES, build
from regrow.errors import UsageError
from regrow.selection.index_set import AGGREGATES, MEMORIES, IndexSet
from regrow.selection.schedule import Schedule

BATCH = prompts(4)
METHOD = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)
PRUNABLE = [*FAMILIES, *STRUCTURES]


# Dense


@pytest.mark.parametrize(
    "sampling", [{}, {"do_sample": True, "temperature": 1.5}], ids=["greedy", "sampling"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_without_sparsity_tokens_are_those_of_the_stock_model(family: str, sampling: dict[str, Any]) -> None:
    """Prompts differ in length, rows end at different steps, and the dtype is float32."""
    model = build(family)
    settings = arguments(BATCH, eos_token_id=ends(model, BATCH), **sampling)
    torch.manual_seed(3)
    stock = model.generate(**settings)
    for method in (
        regrow.Dense(),
        regrow.BatchwiseAdaptive(sparsity=0, init_steps=2, period=5),
        regrow.Griffin(sparsity="0.0"),
    ):
        with regrow.prune(model, method) as session:
            torch.manual_seed(3)
            assert torch.equal(model.generate(**settings), stock)
            assert len(set(session.report().tokens)) >= 2
            assert session.report().actual_sparsity == 0
    with regrow.prune(model, regrow.BatchwiseAdaptive(sparsity=0.9, init_steps=2, period=5)):
        torch.manual_seed(3)
        assert not torch.equal(model.generate(**settings), stock)  # so the comparison can fail


@pytest.mark.parametrize("family", PRUNABLE)
def test_all_neurons_through_the_sparse_kernel_give_the_dense_tokens(family: str) -> None:
    """Sparsity 0 with a schedule that prunes: the kernel reorders no neuron and leaves none out."""
    model = build(family)
    settings = arguments(BATCH)
    stock = model.generate(**settings)
    with regrow.prune(model, Parts(IndexSet(Decimal(0), Schedule(1, 1, 4))), record_masks=True) as session:
        assert torch.equal(model.generate(**settings), stock)
        report = session.report()
        assert (report.sparse_steps, report.decode_steps) == (14, 19)
        assert all(index.tolist() == [list(range(NEURONS))] * LAYERS for _, index in session.masks)
        assert report.weights_kept == report.weights_dense


def test_with_a_cache_of_fixed_size_and_in_chunks_pruned_tokens_stay_the_same() -> None:
    model = build("qwen2", torch.float64)
    with regrow.prune(model, METHOD):
        plain = model.generate(**arguments(BATCH))
        assert torch.equal(model.generate(**arguments(BATCH, cache_implementation="static")), plain)
        assert torch.equal(model.generate(**arguments(BATCH, prefill_chunk_size=2)), plain)
        several = model.generate(**arguments(BATCH, num_return_sequences=2, do_sample=True, top_k=1))
    assert torch.equal(several[::2], several[1::2])
    assert torch.equal(several[::2], plain)


# What a run may be asked for


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("forget", [False, True])
def test_every_memory_and_aggregate_runs(
    shared: PreTrainedModel, aggregate: str, memory: str, forget: bool
) -> None:
    method = regrow.BatchwiseAdaptive(
        0.5, 3, 1, 4, aggregate=aggregate, memory=memory, forget_finished=forget
    )
    eos = ends(shared, BATCH)[0]
    with regrow.prune(shared, method, record_masks=True) as session:
        shared.generate(**arguments(BATCH, eos_token_id=eos))
        report = session.report()
    # Selections come after steps 3, 7, 11, ...
    assert report.updates == len(session.masks) == (report.decode_steps - 4) // 4 + 1 >= 4
    chosen = {"aggregate": aggregate, "memory": memory, "forget_finished": forget}
    steps = {"init_steps": 3, "explore_steps": 1, "period": 4}
    assert (
        report.method == {"name": "bap", "sparsity": 0.5, **steps, "decay": 0.9, "selection": "topk"} | chosen
    )
    assert all(0 <= value <= 1 for value in report.turnover)


@pytest.mark.parametrize("skipped", [(0,), (1,)])
def test_skipped_layers_stay_the_models_own(skipped: tuple[int, ...]) -> None:
    model = build("qwen2", torch.float64)
    with regrow.prune(model, METHOD, skip_layers=skipped, record_masks=True) as session:
        assert "forward" not in vars(model.model.layers[skipped[0]].mlp)
        assert "forward" in vars(model.model.layers[1 - skipped[0]].mlp)
        tokens = model.generate(**arguments(BATCH))
        assert all(index.shape == (1, NEURONS // 2) for _, index in session.masks)
    with regrow.prune(model, METHOD):
        assert not torch.equal(model.generate(**arguments(BATCH)), tokens)


@pytest.mark.parametrize(
    ("skipped", "message"),
    [
        ((2,), "names layer 2, but the model has layers 0 to 1"),
        ((-1,), "names layer -1"),
        ((0, 1), "leaves no layer"),
    ],
)
def test_skipped_layers_must_exist_and_leave_some(
    shared: PreTrainedModel, skipped: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message), regrow.prune(shared, METHOD, skip_layers=skipped):
        pass
    assert "generate" not in vars(shared)


def test_generate_returns_cut_rows_and_a_report(shared: PreTrainedModel) -> None:
    eos = ends(shared, BATCH)
    given = arguments(BATCH, eos_token_id=eos)
    stock = shared.generate(**given)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    made = regrow.generate(shared, ids, mask, **given)
    assert torch.equal(made.sequences, stock)
    assert [len(row) for row in made.tokens] == made.report.tokens
    for row, whole in zip(made.tokens, new_tokens(BATCH, stock), strict=True):
        assert row == whole[: len(row)]
        assert not set(row[:-1]) & set(eos)
    assert "generate" not in vars(shared)
    with regrow.prune(shared, METHOD) as session:
        inside = regrow.generate(shared, ids, mask, **given)
        assert inside.report == session.report()
        assert inside.report.sparse_steps > 0


def test_calls_of_the_model_outside_generate_are_dense(shared: PreTrainedModel) -> None:
    with torch.no_grad():
        logits = shared(**{key: arguments(BATCH)[key] for key in ("input_ids", "attention_mask")}).logits
        with regrow.prune(shared, METHOD) as session:
            shared.generate(**arguments(BATCH))
            before = session.report()
            again = shared(**{key: arguments(BATCH)[key] for key in ("input_ids", "attention_mask")}).logits
            assert torch.equal(again, logits)
            assert session.report() == before


# Refused


def nested(model: PreTrainedModel) -> None:
    with regrow.prune(model, regrow.Dense()):
        pass


def right_padded(model: PreTrainedModel) -> None:
    settings = arguments(BATCH)
    flipped = {key: settings[key].flip(1) for key in ("input_ids", "attention_mask")}
    model.generate(**settings | flipped)


def empty_row(model: PreTrainedModel) -> None:
    settings = arguments(BATCH)
    settings["attention_mask"][2] = 0
    model.generate(**settings)


def holding_cache(model: PreTrainedModel) -> None:
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([[5, 9, 31, 7]])
    with torch.no_grad():
        model(ids[:, :2], past_key_values=cache, use_cache=True)
    model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=4
    )


def asking(**settings: Any) -> Callable[[PreTrainedModel], object]:
    return lambda model: model.generate(**arguments(BATCH, **settings))


def through_ours(**settings: Any) -> Callable[[PreTrainedModel], object]:
    given = arguments(BATCH)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    return lambda model: regrow.generate(model, ids, mask, **given | settings)


def assisted(model: PreTrainedModel) -> None:
    model.generate(**arguments(BATCH[:1]), assistant_model=build("llama"))


def too_long(model: PreTrainedModel) -> None:
    regrow.generate(model, torch.ones(1, 512, dtype=torch.int64), max_new_tokens=1)


REFUSALS: dict[str, tuple[Callable[[PreTrainedModel], object], str]] = {
    "beam search": (asking(num_beams=2), "generation mode 'beam_search' is not supported"),
    "prompt lookup": (
        lambda model: model.generate(**arguments(BATCH[:1], prompt_lookup_num_tokens=2)),
        "'assisted_generation' is not supp",
    ),
    "assisted decoding": (assisted, "assistant_model cannot be used while a model is pruned"),
    "another loop": (
        asking(custom_generate=lambda **kwargs: None),
        "custom_generate cannot be used while a model is pruned",
    ),
    "nested": (nested, "this model is already pruned"),
    "a method within": (through_ours(method=regrow.Dense()), "already pruned; leave out `method`"),
    "a cache with content": (holding_cache, "past_key_values already holds tokens"),
    "no cache": (asking(use_cache=False), "needs the KV cache"),
    "padding on the right": (right_padded, "padded on the right"),
    "a row of nothing but padding": (empty_row, "prompt 2 is nothing but padding"),
    "attentions": (
        asking(output_attentions=True, return_dict_in_generate=True),
        "output_attentions and output_hidden_states are not",
    ),
    "hidden states": (
        asking(output_hidden_states=True, return_dict_in_generate=True),
        "output_attentions and output_hidden_states are",
    ),
    "a dictionary from ours": (through_ours(return_dict_in_generate=True), "always returns a Generation"),
    "a prompt as long as the context": (
        too_long,
        "a prompt of 512 tokens leaves no room in the model's context of 512",
    ),
    "embeddings": (
        asking(input_ids=None, inputs_embeds=torch.ones(4, 9, 32)),
        "'inputs_embeds' is not supported",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_with_one_sentence_and_nothing_is_disturbed(name: str) -> None:
    model = build("qwen2")
    ask, message = REFUSALS[name]
    stock = model.generate(**arguments(BATCH))
    with regrow.prune(model, METHOD):
        want = model.generate(**arguments(BATCH))
        with pytest.raises(UsageError, match=message) as refusal:
            ask(model)
        assert "\n" not in str(refusal.value)
        assert torch.equal(model.generate(**arguments(BATCH)), want)
    assert torch.equal(model.generate(**arguments(BATCH)), stock)


@pytest.mark.parametrize("family", REFUSED)
def test_models_that_cannot_be_pruned_are_left_alone(family: str) -> None:
    model = build(family)
    before = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(UsageError), regrow.prune(model, METHOD):
        pass
    assert [dict(vars(module)) for module in model.modules()] == before


def test_a_sparsity_that_keeps_none_is_refused(shared: PreTrainedModel) -> None:
    with (
        pytest.raises(UsageError, match="keeps none of 64 neurons"),
        regrow.prune(shared, regrow.Griffin(sparsity=0.99)),
    ):
        pass
    assert "generate" not in vars(shared)
