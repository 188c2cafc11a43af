"""Methods, prompts and layers as users pass them: unambiguous ones are accepted, others raise UsageError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from transformers import BatchEncoding, LlamaModel, PreTrainedModel

import regrow
from batches import arguments, prompts
from families import VOCABULARY, build
from regrow.errors import UsageError
from regrow.method.base import Method
from regrow.method.presets import PRESETS, make

BATCH = prompts(3)
GIVEN = arguments(BATCH)
IDS, MASK = GIVEN.pop("input_ids"), GIVEN.pop("attention_mask")
EQUAL = [[5, 9, 31], [7, 3, 12]]


def refused(call: Callable[[], object]) -> str:
    """Return the message of the UsageError that a call raises."""
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


# Methods


@pytest.mark.parametrize("method", ["griffin", regrow.Griffin], ids=str)
def test_a_name_or_a_class_stands_for_its_defaults(shared: PreTrainedModel, method: Any) -> None:
    want = regrow.generate(shared, IDS, MASK, method=regrow.Griffin(), **GIVEN)
    assert want.report.sparse_steps
    with regrow.prune(shared, method) as session:
        assert session.method == regrow.Griffin()
        assert torch.equal(shared.generate(IDS, attention_mask=MASK, **GIVEN), want.sequences)
    with regrow.Engine(shared, method) as engine:
        assert torch.equal(engine.generate(IDS, MASK, **GIVEN).sequences, want.sequences)
    assert torch.equal(regrow.generate(shared, IDS, MASK, method=method, **GIVEN).sequences, want.sequences)


@pytest.mark.parametrize("name", PRESETS)
def test_every_name_is_the_method_or_says_what_it_needs(shared: PreTrainedModel, name: str) -> None:
    made = make(name)
    if made.needs is None:
        with regrow.prune(shared, name) as session:
            assert session.method == made
    else:
        for method in (name, type(made)):
            assert f"method {name!r} needs a calibration" in refused(
                lambda method=method: regrow.Engine(shared, method)
            )


WRONG_METHODS: list[tuple[Any, str]] = [
    ("bup", "unknown method 'bup'; choose one of dense, bap"),
    ("", "unknown method ''"),
    (0.5, "method 0.5 is not a method; pass one such as"),
    (None, "method None is not a method"),
    (regrow.Griffin(), ""),
    (Method, "cannot be made without arguments"),
    (int, "is not a method"),
    ([regrow.Griffin()], "is not a method"),
    ({"name": "bap"}, "is not a method"),
]


@pytest.mark.parametrize(("method", "message"), [row for row in WRONG_METHODS if row[1]], ids=str)
def test_anything_else_is_no_method(shared: PreTrainedModel, method: Any, message: str) -> None:
    assert message in refused(lambda: regrow.prune(shared, method).__enter__())
    if method is not None:
        assert message in refused(lambda: regrow.Engine(shared, method))
        assert message in refused(lambda: regrow.generate(shared, IDS, MASK, method=method, **GIVEN))
    assert "generate" not in vars(shared)


# Prompts


ROWS: dict[str, tuple[Any, Any]] = {
    "an encoding": (BatchEncoding({"input_ids": IDS, "attention_mask": MASK}), None),
    "an encoding with more": (
        BatchEncoding({"input_ids": IDS, "token_type_ids": MASK * 0, "attention_mask": MASK}),
        None,
    ),
    "an encoding of lists": (
        BatchEncoding({"input_ids": IDS.tolist(), "attention_mask": MASK.tolist()}),
        None,
    ),
    "a dictionary": ({"input_ids": IDS, "attention_mask": MASK}, None),
    "a dictionary and a mask": ({"input_ids": IDS}, MASK),
    "lists": (IDS.tolist(), MASK.tolist()),
    "tuples": (tuple(map(tuple, IDS.tolist())), MASK),
    "arrays": (IDS.numpy(), MASK.numpy()),
    "rows that are tensors": (list(IDS), list(MASK)),
    "int32": (IDS.int(), MASK.int()),
    "a mask of booleans": (IDS, MASK.bool()),
    "uint8": (IDS.to(torch.uint8), MASK),
}


@pytest.mark.parametrize("name", ROWS)
def test_prompts_in_any_unambiguous_form(shared: PreTrainedModel, name: str) -> None:
    ids, mask = ROWS[name]
    want = shared.generate(IDS, attention_mask=MASK, **GIVEN)
    made = regrow.generate(shared, ids, mask, **GIVEN)
    assert torch.equal(made.sequences, want)
    assert made.sequences.dtype == torch.int64
    with regrow.Engine(shared) as engine:
        assert torch.equal(engine.generate(ids, mask, **GIVEN).sequences, want)


@pytest.mark.parametrize(
    "single",
    [torch.tensor(EQUAL[0]), EQUAL[0], tuple(EQUAL[0]), numpy.array(EQUAL[0]), {"input_ids": EQUAL[0]}],
)
def test_one_prompt_is_a_batch_of_one(shared: PreTrainedModel, single: Any) -> None:
    assert torch.equal(
        regrow.generate(shared, single, **GIVEN).sequences, shared.generate(torch.tensor(EQUAL[:1]), **GIVEN)
    )


def test_lists_of_one_length_need_no_mask(shared: PreTrainedModel) -> None:
    assert torch.equal(
        regrow.generate(shared, EQUAL, **GIVEN).sequences, shared.generate(torch.tensor(EQUAL), **GIVEN)
    )


WRONG_PROMPTS: dict[str, tuple[Any, Any, str]] = {
    "text": ("How many", None, "prompts as text need the tokenizer before them"),
    "texts": (["How many", "And why"], None, "prompts as text need the tokenizer before them"),
    "nothing": (None, None, "input_ids must be token ids, not NoneType"),
    "a number": (5, None, "must be token ids, not int"),
    "ragged lists": (
        BATCH,
        None,
        "not rows of token ids of one length; pass what `tokenizer(prompts, padding=True",
    ),
    "ragged encoding": (BatchEncoding({"input_ids": BATCH}), None, "not rows of token ids of one length"),
    "lists of lists of lists": (
        [EQUAL],
        None,
        "must be integers [batch, tokens], not torch.int64 of shape [1, 2, 3]",
    ),
    "floats": (IDS.float(), MASK, "must be integers [batch, tokens], not torch.float32"),
    "lists of floats": ([[0.5, 1.0]], None, "must be integers [batch, tokens], not torch.float32"),
    "an array of floats": (numpy.ones((2, 3)), None, "must be integers [batch, tokens], not torch.float"),
    "booleans": (IDS.bool(), MASK, "must be integers [batch, tokens], not torch.bool"),
    "three dimensions": (IDS[None], None, "must be integers [batch, tokens], not torch.int64 of shape [1,"),
    "none": (torch.empty(0, 3, dtype=torch.int64), None, "the batch is empty; give at least one prompt"),
    "an empty list": ([], None, "the batch is empty; give at least one prompt"),
    "an empty prompt": ([[]], None, "the prompts are empty; give every sample at least one token"),
    "a scalar": (torch.tensor(5), None, "must be integers [batch, tokens]"),
    "a mask of another shape": (IDS, MASK[:, 1:], "both must have one shape"),
    "a mask of one row": (IDS, MASK[0], "both must have one shape"),
    "two masks": ({"input_ids": IDS, "attention_mask": MASK}, MASK, "leave one of them out"),
    "an encoding without ids": ({"attention_mask": MASK}, None, "holds no 'input_ids'"),
    "an encoding with images": ({"input_ids": IDS, "pixel_values": MASK}, None, "also holds 'pixel_values'"),
    "an id beyond the vocabulary": (
        [[5, VOCABULARY]],
        None,
        f"token id {VOCABULARY} is not one of the model's 0 to {VOCABULARY - 1}",
    ),
    "a negative id": ([[5, -100]], None, "token id -100 is not one of the model's"),
}


@pytest.mark.parametrize("name", WRONG_PROMPTS)
def test_prompts_that_are_none_are_refused(shared: PreTrainedModel, name: str) -> None:
    ids, mask, message = WRONG_PROMPTS[name]
    assert message in refused(lambda: regrow.generate(shared, ids, mask, **GIVEN))
    with regrow.Engine(shared) as engine:
        assert message in refused(lambda: engine.generate(ids, mask, **GIVEN))
        assert engine.generate(IDS, MASK, **GIVEN).tokens


def padded(length: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one prompt [1, columns] of `length` tokens, left-padded, and its mask."""
    ids = torch.zeros(1, columns, dtype=torch.int64)
    ids[:, columns - length :] = torch.arange(length) % (VOCABULARY - 3) + 3
    return ids, (torch.arange(columns) >= columns - length).long()[None]


def test_padding_takes_no_room_in_the_models_context(shared: PreTrainedModel) -> None:
    """The model's context is 512 tokens."""
    short, mask = padded(6, 6)
    want = regrow.generate(shared, short, mask, **GIVEN).tokens
    for columns in (511, 512, 600):
        assert regrow.generate(shared, *padded(6, columns), **GIVEN).tokens == want
    longer = (
        torch.cat([padded(6, 600)[0], padded(511, 600)[0]]),
        torch.cat([padded(6, 600)[1], padded(511, 600)[1]]),
    )
    assert regrow.generate(shared, *longer, **GIVEN | {"max_new_tokens": 1}).tokens[0] == want[0][:1]


@pytest.mark.parametrize(("length", "columns"), [(512, 512), (512, 600), (515, 515)])
def test_a_prompt_that_fills_the_context_is_refused_with_its_own_length(
    shared: PreTrainedModel, length: int, columns: int
) -> None:
    message = refused(lambda: regrow.generate(shared, *padded(length, columns), **GIVEN))
    assert f"a prompt of {length} tokens leaves no room in the model's context of 512" in message


# Layers and models


@pytest.mark.parametrize(
    "layers",
    [[0], (0,), {0}, range(1), iter([0]), torch.tensor([0]), numpy.array([0]), {0: "a"}.keys()],
    ids=lambda value: type(value).__name__,
)
def test_layers_to_skip_are_any_collection_of_numbers(layers: Any) -> None:
    model = build("qwen2")
    with regrow.prune(model, regrow.Griffin(), skip_layers=layers):
        assert ["forward" in vars(layer.mlp) for layer in model.model.layers] == [False, True]
    assert ["forward" in vars(layer.mlp) for layer in model.model.layers] == [False, False]


@pytest.mark.parametrize(
    "layers",
    [0, 1.5, "0", b"0", None, True, ["0"], [0.0], [None], [True], [[0]], {0: 1}, torch.tensor(0)],
    ids=str,
)
def test_what_is_no_list_of_layers_is_refused(shared: PreTrainedModel, layers: Any) -> None:
    for enter in (
        lambda: regrow.prune(shared, regrow.Griffin(), skip_layers=layers).__enter__(),
        lambda: regrow.Engine(shared, None, layers),
    ):
        assert "skip_layers takes a list of layer numbers such as [0, 1], not " in refused(enter)
    assert "generate" not in vars(shared)


@pytest.mark.parametrize("model", ["gpt2", None, nn.Linear(2, 2), LlamaModel], ids=str)
def test_what_cannot_generate_is_no_model(model: Any) -> None:
    for call in (
        lambda: regrow.prune(model, regrow.Griffin()).__enter__(),
        lambda: regrow.Engine(model),
        lambda: regrow.generate(model, IDS, MASK, **GIVEN),
    ):
        assert (
            "is not a model that can generate; pass what transformers.AutoModelForCausalLM.from_pretrained "
            "gives" in refused(call)
        )


def test_the_inner_model_without_a_head_is_refused(shared: PreTrainedModel) -> None:
    assert "is not a model that can generate" in refused(
        lambda: regrow.prune(shared.model, regrow.Griffin()).__enter__()
    )
