"""Lossless decoding gives the tokens of dense decoding, whatever is drafted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import regrow
from batches import character_tokenizer
from families import build
from lossless_cases import NEW, VOCABULARY, Partly, Stream, drafting, prompts, settings_of
from regrow.core import Pass
from regrow.decoding.drafts.cascade import Cascade
from regrow.decoding.drafts.four_bit import FourBit
from regrow.decoding.drafts.masked import Masked
from regrow.decoding.drafts.ngram import NGram
from regrow.decoding.fused import COLUMNS, FusedNetwork
from regrow.decoding.lossless import LosslessLoop


def poisoned(check: Callable[..., Any]) -> Callable[..., Any]:
    """Overwrite, before a check, all keys and values that no kept token has written.

    The values are large and not NaN, because those behind a mask are multiplied by zero.
    """

    def run(loop: LosslessLoop, *given: Any) -> Any:
        network, batch = loop._network, loop._batch
        assert isinstance(network, FusedNetwork)
        for row in range(len(batch)):
            end = int(batch.mask[row].sum()) + int(batch.lengths[row]) - 1
            network._keys_values[:, row, end:] = 1e4
        return check(loop, *given)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@settings(deadline=None, max_examples=12)
@given(
    rows=st.integers(1, 4),
    seed=st.integers(0, 9),
    window=st.integers(1, 16),
    chance=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    ends=st.integers(0, NEW - 1),
)
def test_tokens_are_those_of_dense_decoding(
    family: str, dtype: torch.dtype, rows: int, seed: int, window: int, chance: float, ends: int
) -> None:
    """The token that the first row gets at place `ends` is an EOS, so that rows end inside drafts."""
    model, batch = build(family, dtype), prompts(rows, seed)
    with regrow.prune(model, "dense") as session:
        free = model.generate(**settings_of(batch))
        asked = settings_of(batch, eos_token_id=int(free[0, 9 + ends]))
        dense, report = model.generate(**asked), session.report()
        with (
            drafting(Partly(free, chance)),
            patch.object(LosslessLoop, "_checked", poisoned(LosslessLoop._checked)),
        ):
            ours = model.generate(**asked, lossless=regrow.Lossless(window=window))
        assert torch.equal(ours, dense)
        assert session.report().tokens == report.tokens
        assert session.report().finish_reasons == report.finish_reasons
        if chance == 1 and rows == 1 and ends == NEW - 1:
            assert session.report().decode_steps == -(-(NEW - 1) // (window + 1))


def test_the_cache_has_columns_for_all_tokens_of_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels attend to the columns of every fed token, also of those that a row has no room for."""
    model, batch, forward = build("llama"), prompts(2, 1), FusedNetwork.forward
    seen: list[int] = []

    def checked(network: FusedNetwork, planned: Pass, ids: Tensor, **how: Any) -> Tensor:
        if not planned.prompt:
            seen.append(int(planned.position[:, 0].max()) + planned.width)
            assert seen[-1] <= network._keys_values.shape[2]
        return forward(network, planned, ids, **how)

    monkeypatch.setattr(FusedNetwork, "forward", checked)
    # As on a GPU, where the host learns late that rows have little room left.
    monkeypatch.setattr("regrow.decoding.lossless._fitting", lambda window, _: window)
    asked = settings_of(batch, max_new_tokens=COLUMNS - 9)  # the text fills whole blocks of columns
    with regrow.prune(model, "dense"):
        dense = model.generate(**asked)
        with drafting(Partly(dense, 1.0)):
            ours = model.generate(**asked, lossless=regrow.Lossless(window=16))
    assert torch.equal(ours, dense)
    assert max(seen) > COLUMNS + 1


@pytest.mark.parametrize("draft", [NGram(), FourBit(8)])
def test_passes_on_a_cpu_see_no_more_columns_than_the_text_has(draft: Any) -> None:
    model, batch, seen = build("llama"), prompts(2, 1), []
    plain = FusedNetwork._plain

    def spied(network: FusedNetwork, *given: Any) -> Tensor:
        seen.append(given[3])
        return plain(network, *given)

    with regrow.prune(model, "dense"), patch.object(FusedNetwork, "_plain", spied):
        asked = settings_of(batch)
        model.generate(**asked)  # compares the logits of the fused model first
        seen.clear()
        model.generate(**asked, lossless=regrow.Lossless(draft, window=1))
    # The prompt; then a draft of one token, and its check.
    assert seen[0] == 9
    assert seen[1] <= 11
    assert seen == sorted(seen)


CHEAP = regrow.Costs(1.0, 0.1, {1: 1.0, 2: 1.0, 4: 1.1})


@pytest.mark.parametrize("method", ["dense", "bap", "griffin"])
@pytest.mark.parametrize("window", [None, 3])
def test_every_draft_gives_the_tokens_of_dense_decoding(method: str, window: int | None) -> None:
    model, batch = build("llama"), prompts(3, 1)
    dense = regrow.generate(model, **settings_of(batch)).sequences
    chosen = regrow.BatchwiseAdaptive(init_steps=0) if method == "bap" else method
    drafts = [None, NGram(), NGram(longest=2, shortest=1), FourBit(8), Cascade(NGram(2, 1), FourBit(8))]
    masks = [Masked(), Masked(8), Cascade(NGram(2, 1), Masked()), Cascade(NGram(2, 1), Masked(8))]
    drafts += masks if method != "dense" else []
    with regrow.prune(model, chosen) as session:
        for draft in drafts:
            how = regrow.Lossless(draft, window, CHEAP)
            ours = model.generate(**settings_of(batch), lossless=how)
            assert torch.equal(ours, dense)
            report = session.report()
            assert report.decode_steps <= NEW - 1
            assert 0 <= report.drafts_kept <= report.drafted
            assert report.draft_costs == (CHEAP.to_dict() if window is None else {})


def test_a_mask_needs_a_method_that_prunes() -> None:
    for draft in (Masked(), Masked(8), Cascade(then=Masked())):
        with pytest.raises(regrow.UsageError, match="guesses with the mask of a method, and dense has none"):
            regrow.generate(build("llama"), **settings_of(prompts(1, 1)), lossless=regrow.Lossless(draft))


def test_drafts_are_counted() -> None:
    model, batch = build("llama"), prompts(3, 1)
    with regrow.prune(model, "dense") as session:
        dense = model.generate(**settings_of(batch))
        for chance, kept in ((1.0, 1.0), (0.0, 0.0)):
            with drafting(Partly(dense, chance)):
                model.generate(**settings_of(batch), lossless=regrow.Lossless(window=4))
            report = session.report()
            assert report.drafts_kept == kept * report.drafted
            # With r tokens to go, at most r - 1 are drafted, and a usual number of them: 1, 2 or 4.
            lost = 3 * 2 if chance else 3 * (4 + 3 + 2 + 2)
            assert report.drafted == 3 * 4 * report.decode_steps - lost
            assert report.decode_steps == (-(-(NEW - 1) // 5) if chance else NEW - 1)
            assert f"{report.drafts_kept} of {report.drafted} (" in str(report)
            with drafting(Partly(dense, chance)):
                model.generate(**settings_of(batch), lossless=regrow.Lossless(window=4), streamer=Stream())
            again = session.report()
            assert (again.drafted, again.drafts_kept) == (report.drafted, report.drafts_kept)
        model.generate(**settings_of(batch))
        assert session.report().drafted == 0
        assert "drafted" not in session.report().to_dict()


def test_steps_are_dense_while_no_window_wins() -> None:
    model, batch = build("llama"), prompts(2, 1)
    dear = regrow.Costs(1.0, 0.9, {1: 1.6, 2: 2.2})
    with regrow.prune(model, "dense") as session:
        dense = model.generate(**settings_of(batch))
        ours = model.generate(**settings_of(batch), lossless=regrow.Lossless(NGram(), costs=dear))
        assert torch.equal(ours, dense)
        assert (session.report().drafted, session.report().decode_steps) == (0, NEW - 1)


def test_costs_are_measured_once_for_a_batch_size_and_a_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes longer than all before it, so whatever is measured later costs more."""
    calls = count()
    monkeypatch.setattr(LosslessLoop, "_now", lambda _: float(next(calls) ** 2))
    model = build("llama")
    with regrow.prune(model, "dense") as session:
        found = []
        for rows, draft in ((2, NGram()), (2, NGram()), (3, NGram()), (2, NGram(2, 1))):
            how = regrow.Lossless(draft)
            for _ in range(8):  # until all windows were measured
                asked = settings_of(prompts(rows, 1))
                assert torch.equal(model.generate(**asked, lossless=how), model.generate(**asked))
                if session.report().draft_costs:
                    break
                model.generate(**asked, lossless=how)
            model.generate(**asked, lossless=how)
            costs = session.report().draft_costs
            assert regrow.Costs.from_dict(costs).dense > 0
            found.append({name: seconds for name, seconds in costs.items() if name != "agreement"})
    assert found[0] == found[1]
    assert found[1]["dense"] < found[2]["dense"] < found[3]["dense"]


@pytest.mark.parametrize("reader", [False, True])
@pytest.mark.parametrize(("right", "tokens"), [(False, 1), (True, 6)])
def test_passes_are_counted_for_the_samples_that_take_part(reader: bool, right: bool, tokens: int) -> None:
    """Rows end at different steps. Every pass gives a live row one token, or six if all drafts are right."""
    model, batch = build("llama"), prompts(3, 4)
    with regrow.prune(model, "dense") as session:
        free = model.generate(**settings_of(batch))
        readers = {"streamer": Stream()} if reader else {}
        asked = settings_of(batch, eos_token_id=int(free[0, 15]), **readers)
        with drafting(Partly(free if right else (free + 1) % VOCABULARY, 1.0)):
            model.generate(**asked, lossless=regrow.Lossless(window=5))
    report = session.report()
    assert len(set(report.tokens)) > 1
    steps = [count - 1 for count in report.tokens]
    assert report.sample_passes == sum(-(-count // tokens) for count in steps)
    assert report.counters.tokens_per_pass == sum(steps) / report.sample_passes


def test_masks_are_selected_by_every_check_and_by_no_dense_step() -> None:
    model = build("llama")
    dear = regrow.Costs(1.0, 0.9, {1: 1.6, 2: 2.2})
    with regrow.prune(model, regrow.BatchwiseAdaptive(init_steps=0)) as session:
        model.generate(**settings_of(prompts(2, 1)), lossless=regrow.Lossless(window=2))
        report = session.report()
        assert report.updates >= report.decode_steps > 1
        model.generate(**settings_of(prompts(2, 1)), lossless=regrow.Lossless(costs=dear))
        assert session.report().decode_steps == NEW - 1
        assert session.report().updates == 1  # after the prompt


def test_a_trial_after_dense_steps_drafts_with_a_new_mask() -> None:
    """49.5 dense steps pass before a window is tried."""
    model, hopeless = build("llama"), regrow.Costs(1.0, 0.0, {1: 0.99}, agreement=0.0)
    with regrow.prune(model, regrow.BatchwiseAdaptive(init_steps=0)) as session:
        batch = settings_of(prompts(1, 1), max_new_tokens=53)
        with drafting(Partly(torch.zeros(1, 9 + 53, dtype=torch.int64), 1.0)):  # never right
            model.generate(**batch, lossless=regrow.Lossless(costs=hopeless))
        report = session.report()
    assert (report.decode_steps, report.drafted) == (52, 1)
    assert report.updates == 1 + 2  # after the prompt, by the step before the trial, and by its check


class Seen(LogitsProcessor):
    """Record the ids that it is called with, and prefer tokens by them."""

    def __init__(self) -> None:
        self.ids: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.ids.append(input_ids.clone())
        return scores - 2.0 * torch.nn.functional.one_hot(input_ids[:, -1], scores.shape[1])


@pytest.mark.parametrize("chance", [0.0, 0.7, 1.0])
def test_what_reads_tokens_is_called_as_without_drafts(chance: float) -> None:
    model, batch = build("qwen2"), prompts(3, 2)

    def run(**more: Any) -> tuple[Tensor, list[Tensor], list[list[int]]]:
        seen, stream = Seen(), Stream()
        processors = LogitsProcessorList([seen])
        ids = model.generate(**settings_of(batch), logits_processor=processors, streamer=stream, **more)
        return ids, seen.ids, stream.tokens

    with regrow.prune(model, "dense"):
        dense, ids, tokens = run()
        with drafting(Partly(dense, chance)):
            ours, our_ids, our_tokens = run(lossless=regrow.Lossless(window=5))
    assert torch.equal(ours, dense)
    assert our_tokens == tokens
    assert len(our_ids) == len(ids)
    assert all(map(torch.equal, our_ids, ids))


@pytest.mark.parametrize("chance", [0.0, 0.7, 1.0])
def test_rows_stop_inside_a_draft(chance: float) -> None:
    """Rows are stopped by their text and by a criterion, at different steps."""
    model, batch = build("qwen2"), prompts(3, 2)
    tokenizer = character_tokenizer()

    class Every(StoppingCriteria):
        """Stops a row at its 13th new token if it is even, and at the first one after it that is."""

        def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
            return (input_ids[:, -1] % 2 == 0) & (input_ids.shape[1] >= 9 + 13)

    with regrow.prune(model, "dense") as session:
        free = model.generate(**settings_of(batch))
        words = tokenizer.decode(free[1, 9 + 5 : 9 + 7])
        asked: dict[str, Any] = settings_of(batch, stop_strings=[words], tokenizer=tokenizer)
        asked["stopping_criteria"] = StoppingCriteriaList([Every()])
        dense, report = model.generate(**asked), session.report()
        with drafting(Partly(free, chance)):
            ours = model.generate(**asked, lossless=regrow.Lossless(window=5))
    assert torch.equal(ours, dense)
    assert report.finish_reasons[1] == "stop"
    assert len(set(report.tokens)) > 1
    assert session.report().tokens == report.tokens
    assert session.report().finish_reasons == report.finish_reasons


def test_ended_rows_are_padded_and_keep_nobody_waiting() -> None:
    """The pad token lies outside of the vocabulary, and drafts of ended rows are read from the padding."""
    model, batch = build("llama"), prompts(3, 4)
    with regrow.prune(model, "dense") as session:
        free = model.generate(**settings_of(batch))
        asked = settings_of(batch, eos_token_id=int(free[0, 11]), pad_token_id=model.config.vocab_size + 5)
        dense = model.generate(**asked, streamer=Stream())
        assert (dense == asked["pad_token_id"]).any()
        assert torch.equal(model.generate(**asked, streamer=Stream(), lossless=True), dense)
        with drafting(Partly(free, 1.0)):
            ours = model.generate(**asked, streamer=Stream(), lossless=regrow.Lossless(window=5))
        assert torch.equal(ours, dense)
        assert session.report().decode_steps == -(-(dense.shape[1] - 9 - 1) // 6)


def test_samples_of_the_same_seed_are_the_same_if_the_sampler_is_called_token_by_token() -> None:
    model, batch = build("llama"), prompts(2, 3)
    asked = settings_of(batch, do_sample=True, temperature=0.8, repetition_penalty=1.2)
    with regrow.prune(model, "dense"):
        torch.manual_seed(5)
        dense = model.generate(**asked)
        torch.manual_seed(5)
        assert torch.equal(model.generate(**asked, lossless=True), dense)


def test_samples_have_the_dense_distribution() -> None:
    """Counts pairs of tokens after a fixed prompt, of which the second follows a draft that is often right.

    The largest difference between two samples of n pairs exceeds sqrt(2 ln(4 k / a) / n), for k kinds of
    pairs, with probability at most a = 1e-6 (Hoeffding, union over kinds and samples).
    """
    model, count = build("llama"), 4000
    ids = torch.full((count, 3), 7)
    asked: dict[str, Any] = {
        "max_new_tokens": 3, "do_sample": True, "temperature": 0.3, "top_k": 3,
        "pad_token_id": 0, "eos_token_id": None,
    }  # fmt: skip
    with regrow.prune(model, "dense"):
        torch.manual_seed(0)
        dense = model.generate(ids, **asked)[:, 3:]
        likely = dense[:1].expand(count, -1)
        with drafting(Partly(torch.cat([ids, likely], dim=1), 1.0)):
            ours = model.generate(ids, **asked, lossless=regrow.Lossless(window=2))[:, 3:]
    kinds = torch.cat([dense, ours]).unique(dim=0)
    shares = [(found[:, None] == kinds).all(dim=2).double().mean(dim=0) for found in (dense, ours)]
    assert len(kinds) <= 27
    bound = 2 * (torch.log(torch.tensor(4 * 27 / 1e-6)) / (2 * count)).sqrt()
    assert float((shares[0] - shares[1]).abs().max()) < float(bound) < 0.11


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: regrow.Lossless(window=0), "from 1 to 16, not 0"),
        (lambda: regrow.Lossless(window=17), "from 1 to 16, not 17"),
        (lambda: regrow.Lossless(window=True), "from 1 to 16"),
        (
            lambda: regrow.Lossless("ngram"),
            "draft is a FourBit, an NGram, a Masked, a Cascade or None, not str",
        ),
        (lambda: regrow.Lossless(costs={}), "costs are a regrow.Costs or None, not dict"),
        (lambda: FourBit(12), "group is a multiple of 8, not 12"),
        (lambda: FourBit(0), "group is a multiple of 8, not 0"),
        (lambda: Masked(12), "group is a multiple of 8, not 12"),
        (lambda: Cascade(FourBit()), "a Cascade is made of an NGram, and of a FourBit or a Masked"),
        (lambda: NGram(1, 2), "1 <= shortest <= longest"),
        (lambda: NGram(2.0), "1 <= shortest <= longest"),
    ],
)
def test_other_settings_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(regrow.UsageError, match=said):
        make()


def test_other_values_and_models_are_refused() -> None:
    other = build("olmo2")
    with pytest.raises(regrow.UsageError, match=r"lossless is True, False or a regrow\.Lossless, not int"):
        regrow.generate(other, **settings_of(prompts(1, 1)), lossless=1)  # type: ignore[arg-type]
    with pytest.raises(regrow.UsageError, match="runs through its own forward; leave lossless out"):
        regrow.generate(other, **settings_of(prompts(1, 1)), lossless=True)
