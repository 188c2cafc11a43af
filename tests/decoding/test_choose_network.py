"""A model that differs from what its class says runs its own forward, with stock transformers' tokens.

An unchanged model runs fused, also after a change was undone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

import regrow
from batches import arguments, prompts
from calibrations import calibration_for
from changes import CHANGES, SDPA
from families import build
from regrow.adapter import llama_like
from regrow.decoding import choose_network
from regrow.decoding.choose_network import Networks
from regrow.errors import UsageError
from regrow.method.base import Method

PROMPTS = prompts(3)
SETTINGS = arguments(PROMPTS)
BY_PARTS = "FusedNetwork"
# A fused network is built from these settings: it is built again, and gives the changed tokens.
SEEN = {
    "frequencies_written",
    "frequencies_replaced",
    "epsilon",
    "epsilon of the last norm",
    "scaling of angles",
}


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The class names of the networks that batches get, in order."""
    names: list[str] = []
    choose = Networks.for_batch

    def spy(self: Networks, *args: Any, **kwargs: Any) -> Any:
        network = choose(self, *args, **kwargs)
        names.append(type(network).__name__)
        return network

    monkeypatch.setattr(Networks, "for_batch", spy)
    return names


def tokens(model: PreTrainedModel) -> Tensor:
    found = model.generate(**SETTINGS)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_model_is_what_transformers_makes_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch, chosen: list[str]
) -> None:
    """Changed before, it is so from the first batch; changed between two batches, until it is undone."""
    model = build("llama")
    unchanged = tokens(model)
    with monkeypatch.context() as patch, ExitStack() as stack:
        CHANGES[name](model, patch, stack)
        theirs = tokens(model)
        with regrow.prune(model, regrow.Dense()):
            assert torch.equal(tokens(model), theirs)
    assert not torch.equal(theirs, unchanged), "the change shows in no token"
    with regrow.prune(model, regrow.Dense()):
        assert torch.equal(tokens(model), unchanged)
        with monkeypatch.context() as patch, ExitStack() as stack:
            CHANGES[name](model, patch, stack)
            assert torch.equal(tokens(model), theirs)
        assert torch.equal(tokens(model), unchanged)
    assert [network == BY_PARTS for network in chosen] == [name in SEEN, True, name in SEEN, True]


METHODS = [
    regrow.Dense(),
    regrow.BatchwiseAdaptive(sparsity=0.5),
    regrow.Griffin(sparsity=0.5),
    regrow.WINA(sparsity=0.5),
    regrow.Wanda(sparsity=0.5),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_a_method_patches_leaves_a_model_as_shipped(
    family: str, method: Method, chosen: list[str]
) -> None:
    model = build(family)
    with regrow.prune(model, method, calibration=calibration_for(model, method)):
        tokens(model)
    assert chosen == [BY_PARTS]


def test_a_model_saved_and_loaded_is_run_by_its_parts(tmp_path: Path, chosen: list[str]) -> None:
    build("qwen2").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    copied = copy.deepcopy(model)
    for loaded in (model, copied):
        with regrow.prune(loaded, regrow.Dense()):
            tokens(loaded)
    assert chosen == [BY_PARTS, BY_PARTS]


def test_layers_left_out_between_two_batches_are_left_out(chosen: list[str]) -> None:
    model = build("llama")
    with regrow.prune(model, regrow.Dense()):
        whole = tokens(model)
        model.config.num_hidden_layers = 1
        ours = tokens(model)
    assert torch.equal(ours, tokens(model))
    assert not torch.equal(ours, whole)
    assert chosen == [BY_PARTS, "StockNetwork"]


def test_a_window_set_between_two_batches_is_seen(chosen: list[str]) -> None:
    model = build("mistral")
    with regrow.prune(model, regrow.Dense()):
        whole = tokens(model)
        model.config.sliding_window = 4
        ours = tokens(model)
    assert torch.equal(ours, tokens(model))
    assert not torch.equal(ours, whole)
    assert chosen == [BY_PARTS, "StockNetwork"]


COMPILED: dict[str, Callable[[Any], object]] = {
    "model": lambda model: model.compile(backend="eager"),
    "layer": lambda model: model.model.layers[0].compile(backend="eager"),
    "attention": lambda model: model.model.layers[0].self_attn.compile(backend="eager"),
    "forward": lambda model: setattr(model, "forward", torch.compile(model.forward, backend="eager")),
}


@pytest.mark.parametrize("what", COMPILED)
def test_a_compiled_model_keeps_what_was_compiled(what: str, chosen: list[str]) -> None:
    model = build("llama")
    theirs = tokens(model)
    COMPILED[what](model)
    with regrow.prune(model, regrow.Dense()):
        assert torch.equal(tokens(model), theirs)
    assert chosen[0] != BY_PARTS


# Weights: their values are not part of the structure


def _added(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.add_(0.3)


def _written(weight: nn.Parameter) -> None:
    weight.data.mul_(-1)  # neither the address nor the version changes


def _in_inference_mode(weight: nn.Parameter) -> None:
    with torch.inference_mode():
        weight.mul_(-1)


def _pointed_elsewhere(weight: nn.Parameter) -> None:
    weight.data = -weight.data


def _through_numpy(weight: nn.Parameter) -> None:
    weight.detach().numpy()[:] *= -1


@pytest.mark.parametrize("write", [_added, _written, _in_inference_mode, _pointed_elsewhere, _through_numpy])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.embed_tokens.weight",
    ],
)
def test_weights_written_between_two_batches_are_used_and_not_tested_again(
    name: str, write: Callable[[nn.Parameter], None], monkeypatch: pytest.MonkeyPatch, chosen: list[str]
) -> None:
    model, tests = build("qwen2"), []
    test = choose_network.same_by_parts
    monkeypatch.setattr(
        choose_network, "same_by_parts", lambda *given, **how: tests.append(1) or test(*given, **how)
    )
    with regrow.prune(model, regrow.Dense()):
        before = tokens(model)
        write(model.get_parameter(name))
        ours = tokens(model)
    with regrow.prune(model, regrow.Dense()):
        tokens(model)
    theirs = tokens(model)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)
    assert chosen == [BY_PARTS] * 3
    assert len(tests) == 1


def test_a_parameter_put_in_place_of_another_is_used(chosen: list[str]) -> None:
    model = build("llama")
    with regrow.prune(model, regrow.Dense()):
        tokens(model)
        k_proj = model.model.layers[0].self_attn.k_proj
        k_proj.weight = nn.Parameter(-k_proj.weight.detach())
        ours = tokens(model)
    assert torch.equal(ours, tokens(model))
    assert chosen == [BY_PARTS] * 2


# The text on which fused and own forward are compared


@pytest.mark.parametrize("start", [20, 90, 200])
def test_a_difference_that_shows_late_in_a_text_is_seen(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys weigh more from one token on, and the check of the code is switched off."""
    model = build("llama")
    monkeypatch.setattr(llama_like, "pristine", lambda _: True)

    def attend(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        late = (torch.arange(key.shape[2]) >= start)[:, None]
        return SDPA(module, query, torch.where(late, 1.5 * key, key), *args, **kwargs)

    with torch.no_grad():
        assert by_parts(model)
        monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", attend)
        model.config.name = "another"  # the structure tells that there is something to test
        assert not by_parts(model)


def by_parts(model: PreTrainedModel) -> bool:
    return Networks(model)._by_parts() is not None


# Decode loops and input preparation that a model brings itself


@pytest.mark.parametrize("part", ["_sample", "_prefill", "_has_unfinished_sequences"])
@pytest.mark.parametrize("on", ["instance", "class", "subclass"])
def test_a_decode_loop_of_the_models_own_is_refused_and_not_gone_around(
    part: str, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llama")
    function = getattr(type(model), part)

    @functools.wraps(function)
    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    if on == "instance":
        monkeypatch.setitem(vars(model), part, changed.__get__(model))
    elif on == "class":
        monkeypatch.setattr(type(model), part, changed)
    else:
        model.__class__ = type("Mine", (type(model),), {part: changed})
    with (
        regrow.prune(model, regrow.Dense()),
        pytest.raises(UsageError, match=f"{part} of the model was replaced"),
    ):
        tokens(model)


def test_a_subclass_that_changes_nothing_keeps_its_tokens(chosen: list[str]) -> None:
    model = build("llama")
    theirs = tokens(model)
    model.__class__ = type("Mine", (type(model),), {})
    with regrow.prune(model, regrow.Dense()):
        assert torch.equal(tokens(model), theirs)
    assert chosen == ["StockNetwork"]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("name", ["inputs_prepared", "kwargs_updated", "forward_without_a_signature"])
def test_inputs_of_the_models_own_are_prepared_as_in_transformers(
    name: str, chunk: int | None, padded: bool, monkeypatch: pytest.MonkeyPatch, chosen: list[str]
) -> None:
    model = build("qwen3")
    settings = arguments(PROMPTS, prefill_chunk_size=chunk)
    if not padded:
        settings |= {
            "attention_mask": None,
            "input_ids": torch.randint(3, 90, (2, 8), generator=torch.Generator().manual_seed(0)),
        }
    with ExitStack() as stack:
        CHANGES[name](model, monkeypatch, stack)
        theirs = model.generate(**settings)
        with regrow.prune(model, regrow.Dense()):
            assert torch.equal(model.generate(**settings), theirs)
    assert chosen == ["StockNetwork"]


# Modes that a caller may be in


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], str]] = {
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), "StockNetwork"),
    "inference": (torch.inference_mode, BY_PARTS),
    "no_grad": (torch.no_grad, BY_PARTS),
    "float64": (lambda: _default_dtype(torch.float64), BY_PARTS),
    "bfloat16": (lambda: _default_dtype(torch.bfloat16), BY_PARTS),
    "device": (_default_device, BY_PARTS),
    "deterministic": (_deterministic, BY_PARTS),
}


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("name", MODES)
def test_a_model_pruned_in_a_mode_of_the_callers_gives_what_it_gives_there(
    name: str, family: str, chosen: list[str]
) -> None:
    """bfloat16 is included, because its dtypes come from several places."""
    mode, network = MODES[name]
    for dtype in (torch.float32, torch.bfloat16):
        model = build(family, dtype)
        with mode():
            theirs = tokens(model)
            with regrow.prune(model, regrow.Dense()):
                assert torch.equal(tokens(model), theirs)
    assert chosen == [network if family == "llama" else "StockNetwork"] * 2


def test_a_mode_that_is_left_is_forgotten(chosen: list[str]) -> None:
    model = build("llama")
    theirs = tokens(model)
    with regrow.prune(model, regrow.Dense()):
        with torch.autocast("cpu", torch.bfloat16):
            tokens(model)
        assert torch.equal(tokens(model), theirs)
    assert chosen == ["StockNetwork", BY_PARTS]


@pytest.mark.parametrize("part", ["model", "model.layers.1", "model.layers.0.self_attn"])
def test_a_part_in_training_drops_out_as_in_transformers(part: str, chosen: list[str]) -> None:
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5

    def dropping() -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return tokens(model)

    with regrow.prune(model, regrow.Dense()):
        unchanged = tokens(model)
        model.get_submodule(part).train()
        ours = dropping()
        model.eval()
        assert torch.equal(tokens(model), unchanged)
    model.get_submodule(part).train()
    assert torch.equal(dropping(), ours)
    assert not torch.equal(ours, unchanged)
    assert chosen == [BY_PARTS, "StockNetwork", BY_PARTS]
