"""Decodes one batch with a method that keeps masks, and looks at the activations along its answers.

Masks and scores are those of the run itself. The activations come from a second, dense pass over prompts and
answers, because a sparse step does not compute the neurons that its mask leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from regrow.adapter.survey import survey
from regrow.analysis.inspection import Inspection, Overlap
from regrow.calibration.calibration import Calibration
from regrow.core import FFN_SITES, Mode, Surface
from regrow.decoding.memory import out_of_memory
from regrow.errors import RegrowError, UsageError
from regrow.evaluation.inspection.activations import tapped
from regrow.evaluation.inspection.energy import EnergyKept
from regrow.evaluation.inspection.heat_maps import HeatMaps
from regrow.evaluation.inspection.masks import Masks, refuse
from regrow.evaluation.inspection.overlap import order, overlap
from regrow.hosts.generate import Generation
from regrow.hosts.hugging_face import prune
from regrow.method.base import Method
from regrow.report import why_dense
from regrow.selection.schedule import Schedule

Take = Callable[[int, int, int, Tensor], None]  # place of the layer, sample, prompt tokens, zbar [T, F]


def inspect(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    method: Method,
    decode: Callable[[], Generation],
    *,
    new_tokens: int,
    layers: Sequence[int] = (),
    skip_layers: Sequence[int] = (),
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Inspects one batch of prompts `ids` [B, P], padded on the left as `mask` [B, P] says.

    `decode()` answers the prompts with the pruned model, in at most `new_tokens` tokens. `layers`: those with
    a heat map; by default the first, the middle and the last of the pruned ones. `progress(done, total)` is
    called after each sample of the dense pass. Raises UsageError if the method, the layers or the lengths do
    not fit, RegrowError if no mask was selected.
    """
    refuse(method)
    blocks, _ = survey(model, Surface.NEURONS, FFN_SITES, skip_layers)
    drawn = _drawn(layers, blocks.layers)
    with prune(model, method, skip_layers, calibration, record_masks=True) as session:
        _refuse_short(session.schedule, new_tokens)
        done, report = decode(), session.report()
        recorded, scores = session.masks, session.pruner.memory.remembered
        schedule = session.schedule
    if not recorded:
        why = why_dense(report.method, report.target_sparsity, report.counters)
        raise RegrowError(
            f"no mask was selected: {why or 'no sample had scores'}; choose prompts with longer answers, or "
            "fewer initial dense steps (init_steps)"
        )
    masks = Masks(recorded, len(blocks.ffns[0].weights.gate), schedule, report.decode_steps)
    own = None if scores is None else overlap(masks.kept[-1], scores)
    energy = EnergyKept(masks, len(done.tokens))
    prompts = [row[kept.bool()] for row, kept in zip(ids, mask, strict=True)]
    maps = HeatMaps(blocks.layers, drawn, masks, order(masks.kept[-1], scores), [len(row) for row in prompts])
    reader = _Reader([energy.take, maps.take])
    with tapped(model, skip_layers, reader.layer):
        for sample, (prompt, tokens) in enumerate(zip(prompts, done.tokens, strict=True)):
            reader.run(model, sample, prompt, tokens)
            if progress is not None:
                progress(sample + 1, len(prompts))
    return Inspection(
        method=method.describe(),
        neurons=masks.kept.shape[-1],
        layers=list(blocks.layers),
        kept=masks.sizes(),
        tokens=list(report.tokens),
        decode_steps=report.decode_steps,
        sparse_steps=masks.sparse_steps,
        selections=masks.selections,
        successive=masks.successive(),
        overlap=own,
        energy=energy.of_masks(),
        best=energy.of_best(),
        notes=_notes(method, schedule, masks, scores, own),
        maps=maps.maps(),
    )


@final
class _Reader:
    """Runs samples through the dense model, and passes on the activations of each layer."""

    def __init__(self, takers: Sequence[Take]) -> None:
        self._takers = takers
        self._sample = self._prompt = 0

    def run(self, model: PreTrainedModel, sample: int, prompt: Tensor, tokens: Sequence[int]) -> None:
        """Runs a prompt [P] and the new tokens that decode steps were fed: all but the last one."""
        self._sample, self._prompt = sample, len(prompt)
        ids = torch.cat([prompt, prompt.new_tensor(tokens[:-1])])
        with out_of_memory(f"a dense pass over {len(ids)} tokens beside the model"):
            model.base_model(input_ids=ids[None], use_cache=False)  # without the logits, which nobody reads

    def layer(self, place: int, zbar: Tensor) -> None:
        for take in self._takers:
            take(place, self._sample, self._prompt, zbar)


def _drawn(asked: Sequence[int], pruned: Sequence[int]) -> list[int]:
    """Returns the layers with a heat map. Raises UsageError for a layer that is not pruned."""
    for layer in asked:
        if layer not in pruned:
            raise UsageError(
                f"layer {layer} cannot be drawn: it is skipped, or the model does not have it; "
                f"choose among {', '.join(map(str, pruned))}"
            )
    return sorted(set(asked or (pruned[0], pruned[len(pruned) // 2], pruned[-1])))


def _refuse_short(schedule: Schedule, new_tokens: int) -> None:
    """Raises UsageError if no answer of `new_tokens` tokens reaches a sparse step."""
    if not schedule.prunes:
        raise UsageError(
            "a period of nothing but exploration steps has no mask to draw; raise period or lower "
            "explore_steps"
        )
    first = next(step for step in count(1) if schedule.mode(step) is Mode.SPARSE)
    if first >= new_tokens:
        raise UsageError(
            f"the first mask is used in decode step {first}, which an answer of {new_tokens} tokens does not "
            f"reach; allow more than {first} new tokens, or choose fewer initial dense steps (init_steps)"
        )


def _notes(
    method: Method, schedule: Schedule, masks: Masks, scores: Tensor | None, own: Overlap | None
) -> list[str]:
    """Returns what could not be drawn, and why."""
    notes = []
    if len(masks.selections) == 1:
        why = (
            f"method {method.name!r} with these settings selects its mask once"
            if not schedule.explore_steps
            else f"the answers are over before a second mask, at most {len(masks.used)} decode steps"
        )
        notes.append(f"there are no successive masks to compare: {why}")
    if scores is None:
        notes.append(
            f"there is no overlap between samples: method {method.name!r} does not score the samples"
        )
    elif scores.shape[1] == 1:
        notes.append("there is no overlap between samples: the batch has one sample; give several prompts")
    elif own is None:
        notes.append("there is no overlap between samples: fewer than two samples had scores at the end")
    return notes
