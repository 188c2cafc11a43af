"""An inspected batch, compared with the masks, scores and activations of the naive reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

import naive
import regrow
from naive_cases import PROMPTS, Case, draw, masks_of, method_of, settings, stock_arguments
from naive_rules import kept_count, remember, retain, weigh
from regrow.analysis.inspection import Inspection
from regrow.analysis.inspection_plots import pictures
from regrow.errors import UsageError
from regrow.evaluation.inspection import energy, heat_maps
from regrow.evaluation.inspection.overlap import overlap
from regrow.evaluation.inspection.run import inspect
from regrow.hosts.generate import generate
from regrow.method.base import Method

PLAIN = settings(init_steps=3, explore_steps=2, period=6, max_new_tokens=24)
# Seeds of cases with at least two samples and two masks. All aggregates and memories occur in them, and
# both weighings.
SEEDS = (0, 5, 10, 12, 17, 20, 24, 33)

Memories = list[list[Tensor | None]]  # [L][B] of [F]


def case_of(**changes: Any) -> Case:
    return Case("qwen2", torch.float64, PROMPTS, settings(**{**vars(PLAIN), **changes}))


def inspected(case: Case, method: Method | None = None, **more: Any) -> Inspection:
    given = stock_arguments(case)
    return inspect(
        case.model,
        given["input_ids"],
        given["attention_mask"],
        method or method_of(case.settings),
        lambda: generate(case.model, **given),
        new_tokens=case.settings.max_new_tokens,
        **more,
    )


def reference(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[naive.Outcome, Memories]:
    """Return the outcome of the reference, and the memory of every row when the last phase was folded."""
    found: list[tuple[int, Memories]] = []

    class Watched(naive.Statistics):
        def select(self, step: int, finished: Sequence[bool]) -> naive.Selection | None:
            memories: Memories = []
            for layer, down in zip(self.scores, self.downs, strict=True):
                rows = [remember(self.settings, scores) for scores in layer]
                memories.append([None if row is None else weigh(self.settings, row, down) for row in rows])
            found.append((step, memories))
            return super().select(step, finished)

    with monkeypatch.context() as patch:
        patch.setattr(naive, "Statistics", Watched)
        outcome = naive.generate(case.model, case.prompts, case.settings)
    return outcome, [memories for step, memories in found if step < outcome.decode_steps][-1]


def activations(case: Case, outcome: naive.Outcome, row: int) -> list[Tensor]:
    """Return |z| / ||z|| [T, F] of each layer over a prompt and the tokens that decode steps were fed."""
    ids = [*case.prompts[row], *outcome.tokens[row][:-1]]
    with torch.no_grad(), naive.tapped(case.model) as tap:
        case.model(input_ids=torch.tensor([ids]), use_cache=False)
    return [(z[0].abs() / z[0].norm(dim=1, keepdim=True)).nan_to_num(nan=0) for z in tap.latest]


def mask_at(case: Case, outcome: naive.Outcome, step: int) -> list[list[int]] | None:
    """Return the mask that a decode step used, or None if it was dense."""
    if not naive.is_sparse(case.settings, step):
        return None
    return [kept for selected, kept in masks_of(outcome) if selected < step][-1]


def groups_of(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_and_overlaps_are_those_of_the_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw(seed, torch.float64)
    outcome, memories = reference(case, monkeypatch)
    found, masks = inspected(case), masks_of(outcome)
    assert len(case.prompts) > 1
    assert len(masks) > 1
    assert found.selections == [step for step, _ in masks]
    assert found.tokens == [len(row) for row in outcome.tokens]
    assert len(found.sparse_steps) == outcome.sparse_steps
    neurons = case.model.config.intermediate_size
    assert found.kept == [kept_count(case.settings.sparsity, neurons)] * len(memories)
    assert found.successive == [
        [len(set(a) & set(b)) / len(b) for a, b in zip(old, new, strict=True)]
        for (_, old), (_, new) in itertools.pairwise(masks)
    ]
    scored = [row for row, memory in enumerate(memories[0]) if memory is not None]
    if len(scored) < 2:
        assert found.overlap is None
        return
    assert found.overlap is not None
    assert found.overlap.samples == [row + 1 for row in scored]
    for layer, rows in enumerate(memories):
        k = found.kept[layer]
        own = [set(retain(memory, k)[0]) for memory in rows if memory is not None]
        assert found.overlap.common[layer] == [[len(a & b) / k for b in own] for a in own]
        assert found.overlap.kept[layer] == [len(a & set(masks[-1][1][layer])) / k for a in own]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_energy_is_that_of_the_dense_activations_inside_the_mask(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "CHUNK", 5)
    case = draw(seed, torch.float64)
    outcome, _ = reference(case, monkeypatch)
    found = inspected(case)
    for row, tokens in enumerate(outcome.tokens):
        relative, prompt = activations(case, outcome, row), len(case.prompts[row])
        shares: list[list[tuple[float, float]]] = [[] for _ in relative]
        for step in range(1, len(tokens)):
            mask = mask_at(case, outcome, step)
            if mask is None:
                assert found.energy.by_step[row][step - 1] is None
                continue
            for layer, kept in enumerate(mask):
                square = relative[layer][prompt + step - 1].square()
                best = square.sort(descending=True).values[: len(kept)].sum()
                shares[layer].append((float(square[kept].sum()), float(best)))
            now = [of_layer[-1] for of_layer in shares]
            assert found.energy.by_step[row][step - 1] == pytest.approx(mean(a for a, _ in now), rel=1e-9)
            assert found.best.by_step[row][step - 1] == pytest.approx(mean(b for _, b in now), rel=1e-9)
        assert set(found.energy.by_step[row][len(tokens) - 1 :]) <= {None}
        for layer, of_layer in enumerate(shares):
            kept_energy = mean(a for a, _ in of_layer) if of_layer else None
            assert found.energy.by_layer[layer][row] == (
                None if kept_energy is None else pytest.approx(kept_energy, rel=1e-9)
            )


@pytest.mark.parametrize("bands", [256, 8])
def test_a_heat_map_shows_each_neuron_or_the_strongest_of_a_band(
    bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heat_maps, "BANDS", bands)
    monkeypatch.setattr(heat_maps, "PROMPT_COLUMNS", 4)
    case = case_of()
    outcome, memories = reference(case, monkeypatch)
    found = inspected(case, layers=[2, 1])
    assert found.drawn == [1, 2]
    for heat_map in found.maps:
        layer, last = heat_map.layer, set(masks_of(outcome)[-1][1][heat_map.layer])
        assert (heat_map.band, heat_map.prompt_columns, heat_map.kept) == (-(-64 // bands), 4, len(last))
        score = torch.stack([memory for memory in memories[layer] if memory is not None]).amax(0).tolist()
        order = sorted(range(64), key=lambda j: (j not in last, -score[j], j))
        assert [panel.sample for panel in heat_map.panels] == [1, 2, 3, 4]
        for row, panel in enumerate(heat_map.panels):
            values = activations(case, outcome, row)[layer]
            prompt = len(case.prompts[row])
            before = min(prompt, 4)
            for column in range(len(panel.magnitude[0])):
                shown = [band[column] for band in panel.magnitude]
                place = prompt - 4 + column  # of the token
                if place < prompt - before or place >= len(values):
                    assert all(value != value for value in shown)
                    continue
                mask = mask_at(case, outcome, column - 3) if column >= 4 else None
                for number, group in enumerate(groups_of(order, heat_map.band)):
                    strongest = max(group, key=lambda j: float(values[place][j]))
                    assert shown[number] == pytest.approx(float(values[place][strongest]), rel=1e-6)
                    left_out = mask is not None and strongest not in mask[layer]
                    assert panel.left_out[number][column] is left_out


def test_the_dense_pass_leaves_the_model_as_it_was() -> None:
    case = case_of()
    inspected(case)
    assert all("forward" not in vars(layer.mlp) for layer in case.model.model.layers)


def test_skipped_layers_are_left_out() -> None:
    found = inspected(case_of(), skip_layers=[1])
    assert found.layers == [0, 2]
    assert found.drawn == [0, 2]
    assert len(found.kept) == len(found.energy.by_layer) == len(found.successive[0]) == 2
    with pytest.raises(UsageError, match="layer 1 cannot be drawn: it is skipped"):
        inspected(case_of(), skip_layers=[1], layers=[1])


def test_what_cannot_be_drawn_is_said() -> None:
    (note,) = inspected(case_of(), regrow.Griffin(0.5)).notes
    assert note == (
        "there are no successive masks to compare: method 'griffin' with these settings selects its mask once"
    )
    fixed = inspected(case_of(), regrow.Magnitude(0.5))
    assert fixed.overlap is None
    assert (
        fixed.notes[1] == "there is no overlap between samples: method 'magnitude' does not score the samples"
    )
    alone = Case("qwen2", torch.float64, PROMPTS[:1], PLAIN)
    assert inspected(alone).notes == [
        "there is no overlap between samples: the batch has one sample; give several prompts"
    ]
    short = inspected(case_of(max_new_tokens=6))
    assert short.successive == []
    assert short.notes == [
        "there are no successive masks to compare: the answers are over before a second mask, "
        "at most 5 decode steps"
    ]
    assert not inspected(case_of()).notes


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("dense", "method 'dense' keeps no mask of neurons from step to step"),
        ("teal", "method 'teal' keeps no mask"),
        ("cats", "method 'cats' keeps no mask"),
        ("wanda", "method 'wanda' keeps no mask"),
        ("every-token", "choose one of bap, griffin, magnitude, random, bap-weighed"),
    ],
)
def test_methods_without_lasting_masks_are_refused(method: str, sentence: str) -> None:
    from regrow.method.presets import make

    with pytest.raises(UsageError, match=sentence):
        inspected(case_of(), make(method))


def test_settings_without_a_mask_are_refused_before_decoding() -> None:
    for case, sentence in (
        (case_of(sparsity="0"), "sparsity 0 keeps every neuron"),
        (case_of(explore_steps=6), "nothing but exploration steps"),
        (case_of(max_new_tokens=4), "the first mask is used in decode step 4, which an answer of 4 tokens"),
    ):
        with pytest.raises(UsageError, match=sentence):
            inspected(case)


def test_the_overlap_of_hand_made_scores() -> None:
    kept = torch.tensor([[True, True, False, False]])
    scores = torch.tensor([[[4.0, 3, 2, 1], [1, 4, 3, 2], [torch.nan] * 4, [1, 2, 3, 4]]])
    found = overlap(kept, scores)
    assert found is not None
    assert found.samples == [1, 2, 4]
    assert found.common == [[[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]]
    assert found.kept == [[1, 0.5, 0]]
    assert found.mean_common(0) == pytest.approx(1 / 3)
    assert overlap(kept, scores[:, 2:]) is None


def test_the_same_inspection_gives_the_same_pictures() -> None:
    first, second = (dict(pictures(inspected(case_of(), layers=[0]))) for _ in range(2))
    assert list(first) == ["activations-layer-0.png", "refreshes.svg", "samples.svg", "energy.svg"]
    assert first == second
    assert first["activations-layer-0.png"].startswith(b"\x89PNG")
    assert all(b"<svg" in first[name] for name in list(first)[1:])
