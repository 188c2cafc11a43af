"""Weights of 4 bits: what rounding does to a model, and that decode steps run from the rounded weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

import regrow
from batches import arguments, new_tokens, prompts
from calibrations import calibration_for
from copies import deep, pickled, saved
from families import FAMILIES
from families import build as tiny
from laid_out_models import OURS, WAYS, Way, build, measured, moved
from regrow.adapter.rounded import packed_blocks
from regrow.adapter.weights_state import checksums
from regrow.decoding.choose_network import Networks
from regrow.decoding.fused import FusedNetwork
from regrow.kernels import Codes, multiplies_codes
from regrow.method.base import Method

BATCH = prompts(3, seed=4)
FEW = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)
PACKED = pytest.mark.skipif(
    not multiplies_codes(torch.device("cpu"), torch.bfloat16), reason="this CPU multiplies no codes"
)


def linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    inside: Any = model.get_decoder().layers
    return {name: module for name, module in inside.named_modules() if isinstance(module, nn.Linear)}


def state(model: nn.Module) -> tuple[int, ...]:
    return checksums(model.parameters())


def tokens(model: PreTrainedModel, **more: Any) -> list[list[int]]:
    return new_tokens(BATCH, model.generate(**arguments(BATCH, max_new_tokens=24), **more))


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[FusedNetwork]:
    """The networks that batches get, in order."""
    found: list[FusedNetwork] = []
    choose = Networks.for_batch

    def spy(self: Networks, *args: Any, **kwargs: Any) -> Any:
        network = choose(self, *args, **kwargs)
        assert isinstance(network, FusedNetwork)
        found.append(network)
        return network

    monkeypatch.setattr(Networks, "for_batch", spy)
    return found


def with_codes(network: FusedNetwork) -> list[str]:
    """Return the parts of the first block that decode steps run from codes."""
    steps, whole = network._steps.blocks[0], network._decoder.blocks[0]
    return [part for part in ("qkv", "output", "ffn") if getattr(steps, part) is not getattr(whole, part)]


# What is rounded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_linear_layers_of_the_blocks_are_rounded_and_nothing_else(
    family: str, dtype: torch.dtype
) -> None:
    model, before = tiny(family, dtype), tiny(family, dtype).state_dict()
    lost, squares, done = 0.0, 0.0, []
    error = regrow.round_weights(model, 16, lambda *at: done.append(at))
    inside = {f"model.layers.{name}.weight" for name in linears(model)}
    assert len(inside) >= 2 * 4
    for name, after in model.state_dict().items():
        if name not in inside:
            assert torch.equal(after, before[name]), name
            continue
        assert torch.equal(after, Codes.of(before[name], 4, 16).expanded(dtype)), name
        lost += float((after.double() - before[name].double()).square().sum())
        squares += float(before[name].double().square().sum())
    assert error == pytest.approx((lost / squares) ** 0.5, rel=0.01)
    assert 0.02 < error < 0.2
    assert done == [(1, 2), (2, 2)]


def test_shared_weights_are_rounded_once() -> None:
    model = tiny("llama", torch.bfloat16)
    first, second = (layer.mlp.gate_proj for layer in model.model.layers)
    second.weight = first.weight
    want = Codes.of(first.weight, 4, 8).expanded(torch.bfloat16)
    assert not torch.equal(Codes.of(want, 4, 8).expanded(torch.bfloat16), want), "twice would not show"
    regrow.round_weights(model, 8)
    assert torch.equal(first.weight, want)
    assert second.weight is first.weight


def test_rounding_twice_keeps_the_codes() -> None:
    """In bfloat16 the scale of few groups differs in its last bit, of 2^-7 at most."""
    for dtype in (torch.float32, torch.bfloat16):
        model = build(dtype=dtype, hidden_size=128)
        assert regrow.round_weights(model, 64) > 0.05
        once = deepcopy(model)
        again = regrow.round_weights(model, 64)
        assert again <= (0 if dtype is torch.float32 else 2**-7 * 0.5)
        for name, module in linears(once).items():
            ours, theirs = (
                Codes.of(one.weight, 4, 64) for one in (module, model.get_submodule(f"model.layers.{name}"))
            )
            assert torch.equal(ours.codes, theirs.codes)
            assert torch.equal(ours.offset, theirs.offset)
            assert ((ours.scale - theirs.scale).abs() <= 2**-7 * ours.scale).all()
            assert (ours.scale != theirs.scale).double().mean() < 0.02


def test_an_interrupted_model_has_whole_layers_and_can_be_rounded_again() -> None:
    model, whole, before = build(), build(), build()
    regrow.round_weights(whole, 64)

    def stop(done: int, layers: int) -> None:
        assert layers == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regrow.round_weights(model, 64, stop)
    assert packed_blocks(model) is None
    for layer, other in enumerate((whole, before)):
        assert state(model.model.layers[layer]) == state(other.model.layers[layer])
    regrow.round_weights(model, 64)
    assert state(model) == state(whole)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda model: model.get_parameter("model.layers.1.mlp.up_proj.weight").data[3].fill_(torch.nan),
         r"layers\.1\.mlp\.up_proj has weights that are NaN, infinite or huge"),
        (lambda model: setattr(model.config, "quantization_config", {}), "is quantised"),
        (lambda model: model.model.layers[1].self_attn.to("meta"), "no weight in memory"),
        (lambda model: model.model.layers[1].mlp.register_forward_hook(print), "carries forward hooks"),
        (lambda model: setattr(model.model.layers[1].self_attn.q_proj, "base_layer", 0),
         "carries an adapter"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused_and_stays_as_it_is(
    spoil: Callable[[PreTrainedModel], object], said: str
) -> None:
    model = build()
    spoil(model)
    here = [parameter for parameter in model.parameters() if not parameter.is_meta]
    before = checksums(here)
    with pytest.raises(regrow.UsageError, match=said):
        regrow.round_weights(model, 64)
    assert checksums(here) == before


def test_other_models_and_groups_are_refused() -> None:
    for family, said in (("gpt_neox", "no gated FFN"), ("mixtral", "mixture of experts")):
        with pytest.raises(regrow.UsageError, match=said):
            regrow.round_weights(tiny(family))
    for group in (0, 12, True, 8.0):
        with pytest.raises(regrow.UsageError, match="group is a multiple of 8"):
            regrow.round_weights(tiny("llama"), group)  # type: ignore[arg-type]
    with pytest.raises(regrow.UsageError, match="not a model that can generate"):
        regrow.round_weights(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["dense", "bap"])
@pytest.mark.parametrize("way", [regrow.prune, regrow.Engine])
def test_a_pruned_model_is_refused(method: str, way: Any) -> None:
    model = build()
    before = state(model)
    with way(model, method), pytest.raises(regrow.UsageError, match="pruned at the moment"):
        regrow.round_weights(model)
    assert state(model) == before
    regrow.round_weights(model)
    assert state(model) != before


# How decode steps run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_without_kernels_for_codes_tokens_are_those_of_transformers(family: str, dtype: torch.dtype) -> None:
    model = build(family, dtype=dtype)
    unrounded = tokens(model)
    regrow.round_weights(model, 64)
    assert packed_blocks(model) is None
    plain = tokens(model)
    assert plain != unrounded
    with regrow.prune(model, "dense") as session:
        assert tokens(model) == plain
        assert session.report().state_bytes == 0
        assert tokens(model, lossless=True) == plain


class Forced(LogitsProcessor):
    """Keep the scores of every step, and make the loop choose given tokens."""

    def __init__(self, tokens: Tensor, prompt: int) -> None:
        self._tokens, self._prompt, self.scores = tokens, prompt, list[Tensor]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores.double())
        chosen = self._tokens[:, input_ids.shape[1] - self._prompt, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0)


def scores(model: PreTrainedModel, method: Method | None = None) -> Tensor:
    """Return the scores of the prompt and of the decode steps [B, steps, V], along fixed tokens."""
    asked = arguments(BATCH, max_new_tokens=24)
    drawn = torch.randint(3, 90, (3, 24), generator=torch.Generator().manual_seed(1))
    forced = Forced(drawn, asked["input_ids"].shape[1])
    asked["logits_processor"] = LogitsProcessorList([forced])
    if method is None:
        model.generate(**asked)
    else:
        regrow.generate(model, method=method, **asked)
    return torch.stack(forced.scores, dim=1)


def distance(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


@PACKED
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_codes_are_near_to_the_exact_model(family: str, networks: list[FusedNetwork]) -> None:
    """The exact model has the rounded weights, and computes in float64.

    transformers in bfloat16 rounds what every layer gives. The codes stand for weights that were not rounded
    to bfloat16, which changes each by 2^-9 of its size at most, as if one more result were rounded. The
    kernels also round the inputs of every linear layer to 8 bits, which changes its result by 0.6 % (see
    test_quantized.py), where bfloat16 rounds inputs, results and sums by 0.2 to 0.3 % each. So the distance
    is two to three times transformers' own.
    """
    model = build(family, dtype=torch.bfloat16, hidden_size=128, intermediate_size=256)
    for module in linears(model).values():
        if module.bias is not None:
            torch.nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(2))
    regrow.round_weights(model, 64)
    exact = scores(deepcopy(model).double())
    plain, ours = scores(deepcopy(model)), scores(model, regrow.Dense())
    assert with_codes(networks[-1]) == ["qkv", "output", "ffn"]
    assert 0 < distance(ours, exact) < 3 * distance(plain, exact) < 0.1


@PACKED
def test_prompts_run_from_the_weights() -> None:
    model = build(dtype=torch.bfloat16, hidden_size=128, intermediate_size=256)
    regrow.round_weights(model, 64)
    ours, plain = scores(model, regrow.Dense()), scores(deepcopy(model), regrow.Dense())
    assert torch.equal(ours[:, 0], plain[:, 0])
    assert not torch.equal(ours[:, 1], plain[:, 1])


@PACKED
@pytest.mark.parametrize("method", [regrow.Magnitude(sparsity=0.5), FEW], ids=["magnitude", "bap"])
def test_a_mask_leaves_the_ffns_to_its_method(method: Method, networks: list[FusedNetwork]) -> None:
    model = build(dtype=torch.bfloat16, hidden_size=128, intermediate_size=256)
    regrow.round_weights(model, 64)
    plain, ours = scores(deepcopy(model), method), scores(model, method)
    assert [with_codes(network) for network in networks] == [[], ["qkv", "output"]]
    if method is FEW:  # its masks may differ
        return
    exact = scores(deepcopy(model).double(), method)
    assert distance(ours, exact) < 2 * distance(plain, exact) < 0.1


@PACKED
def test_each_method_keeps_what_it_patches(networks: list[FusedNetwork]) -> None:
    model = build(dtype=torch.bfloat16, hidden_size=128)
    regrow.round_weights(model, 64)
    packed = packed_blocks(model)
    assert packed is not None
    inside = sum(module.weight.nbytes for module in linears(model).values())
    assert 0.25 < packed.nbytes / inside < 0.3
    ways: list[tuple[Method, dict[str, Any], list[str]]] = [
        (regrow.Dense(), {}, ["qkv", "output", "ffn"]),
        (FEW, {}, ["qkv", "output"]),
        (FEW, {"skip_layers": [0]}, ["qkv", "output", "ffn"]),
        (regrow.TEAL(sparsity=0.5), {}, []),
        (regrow.TEAL(sparsity=0.5, ffn_only=True), {}, ["qkv", "output"]),
        (regrow.Wanda(sparsity=0.5), {}, []),
    ]
    for method, more, parts in ways:
        own = {**more, "calibration": calibration_for(model, method)}
        with regrow.prune(model, method, **own) as session:
            tokens(model)
            assert with_codes(networks[-1]) == parts
            taken = session.report().state_bytes - session.pruner.state_bytes
            assert taken == (0 if method.surface is regrow.Wanda.surface else packed.nbytes)
    with regrow.prune(model, "dense"):
        tokens(model, lossless=regrow.Lossless(regrow.NGram(), 3))
        assert with_codes(networks[-1]) == ["qkv", "output", "ffn"]


@PACKED
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", [regrow.Dense(), FEW], ids=["dense", "bap"])
def test_laid_out_weights_are_those_that_have_no_codes(
    way: Way, tied: bool, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, OURS)
    model = build(dtype=torch.bfloat16, tied=tied, hidden_size=128, intermediate_size=256)
    regrow.round_weights(model, 64)
    before, packed, plain = state(model), packed_blocks(model), scores(deepcopy(model), regrow.Dense())
    assert packed is not None
    with way(model, method):
        tokens(model)
        session: Any = vars(model)["generate"].session
        taken = session.report().state_bytes - session.pruner.state_bytes - packed.nbytes
        head = 0 if way is moved and not tied else model.lm_head.weight.nbytes
        ffns = sum(module.weight.nbytes for name, module in linears(model).items() if "mlp" in name)
        assert taken == head + (0 if method.name == "dense" else ffns)
        placeholders = sum(parameter.stride() == (0, 0) for parameter in model.parameters())
        assert placeholders == (way is moved and not tied)
    assert state(model) == before
    with way(model, regrow.Dense()):
        asked = scores(model)
    assert distance(asked, plain) < 0.05


@PACKED
def test_changed_weights_are_noticed_also_if_they_come_back(networks: list[FusedNetwork]) -> None:
    model = build(dtype=torch.bfloat16, hidden_size=128)
    regrow.round_weights(model, 64)
    changed = deepcopy(model)
    up, other = (one.model.layers[0].mlp.up_proj.weight.data for one in (model, changed))
    other.mul_(-1)
    want = scores(changed, regrow.Dense())
    with regrow.prune(model, "dense") as session:
        first = scores(model)
        up.mul_(-1)  # leaves no other trace than its values
        assert torch.equal(scores(model), want)
        assert (with_codes(networks[-1]), session.report().state_bytes) == ([], 0)
        up.mul_(-1)
        assert torch.equal(scores(model), first)
        assert with_codes(networks[-1]) == ["qkv", "output", "ffn"]
        model.model.layers[0].self_attn.q_proj.bias.data.add_(1)
        scores(model)
        assert with_codes(networks[-1]) == []
    model.float()
    assert packed_blocks(model) is None


@PACKED
@pytest.mark.parametrize("made", [deep, pickled, saved])
def test_a_copy_has_the_rounded_weights_and_codes_once_it_is_rounded(
    made: Callable[[Any], Any], networks: list[FusedNetwork]
) -> None:
    model = build(dtype=torch.bfloat16, hidden_size=128)
    regrow.round_weights(model, 64)
    copy = made(model)
    assert state(copy) == state(model)
    regrow.generate(copy, **arguments(BATCH))
    assert with_codes(networks[-1]) == []
    regrow.round_weights(copy, 64)
    regrow.generate(copy, **arguments(BATCH))
    assert with_codes(networks[-1]) == ["qkv", "output", "ffn"]
    assert packed_blocks(model) is not None


@PACKED
def test_sizes_without_kernels_keep_their_weights(networks: list[FusedNetwork]) -> None:
    """96 neurons are no multiple of the 64 outputs of a tile."""
    model = build(dtype=torch.bfloat16, intermediate_size=96)
    regrow.round_weights(model, 64)
    regrow.generate(model, **arguments(BATCH))
    assert with_codes(networks[-1]) == ["qkv", "output"]
