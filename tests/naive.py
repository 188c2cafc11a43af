"""A deliberately slow reference of Batch-wise Adaptive Pruning and of GRIFFIN.

It is written from the text of the paper and shares no code with regrow. It keeps the z of every counted
token, and scores one row at a time when a phase ends. It computes the importance memory again from the scores
of all phases. A sparse step zeroes z outside the retained set, and then runs the model's own dense down
projection. The reference drives a plain Hugging Face causal LM (Qwen2, Llama, Phi-3, Gemma 2) with its own
greedy loop.

Symbols: L layers, B rows, P padded prompt length, T tokens of one forward, F neurons, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from naive_rules import (
    Settings,
    aggregate,
    ends_dense_stage,
    is_sparse,
    kept_count,
    remember,
    retain,
    score,
    weigh,
)


@dataclass
class Selection:
    """One mask for all layers, made at the end of a dense stage."""

    step: int  # decode step after which it is made, 0 = prompt
    kept: list[list[int]]  # per layer, the retained neurons in ascending order
    scores: list[Tensor]  # per layer, mbar [F], weighed if the settings say so
    gap: float  # smallest (k-th - next) / k-th score over the layers; infinite if every neuron is kept
    sparse_steps: int = 0  # decode steps that ran with it


@dataclass
class Outcome:
    """The results of a run, and what the run computed."""

    tokens: list[list[int]]  # new tokens of each row up to and including its EOS
    columns: list[list[int]]  # [N][B] token chosen at each forward, pad after a row's end
    finish_reasons: list[str]  # eos or length
    selections: list[Selection]
    # [N] smallest (first - second) / |first| logit at each forward, over the rows that are unfinished then.
    logit_gaps: list[float]
    counts: list[list[int]]  # per phase, T_b of each row
    decode_steps: int
    sparse_steps: int
    neurons_computed: int  # over all decode steps and layers

    @property
    def score_gap(self) -> float:
        """The smallest relative gap around the k-th score of any selection."""
        return min((selection.gap for selection in self.selections), default=math.inf)

    @property
    def logit_gap(self) -> float:
        """The smallest relative gap between the two largest logits of any choice."""
        return min(self.logit_gaps)


def left_pad(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Return the prompts as ids [B, P], padded on the left, and their attention mask [B, P]."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def hidden(mlp: Any, x: Tensor) -> Tensor:
    """Return z [B, T, F] = act(W_g x) * (W_1 x) of a gated MLP (equation 1).

    Gate and up may be separate or fused (Phi-3).
    """
    if hasattr(mlp, "gate_up_proj"):
        gate, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
        return up * mlp.activation_fn(gate)
    return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)


@dataclass
class Tap:
    """Records the z of every layer in the latest forward, and zeroes z outside `kept`."""

    mlps: list[Any]
    latest: list[Tensor] = field(default_factory=list)  # per layer [B, T, F]
    kept: list[list[int]] | None = None  # per layer; None is dense

    def forward(self, layer: int, x: Tensor) -> Tensor:
        """Return y [B, T, D] of one layer."""
        z = hidden(self.mlps[layer], x)
        self.latest[layer] = z
        if self.kept is not None:
            outside = torch.ones(z.shape[-1], dtype=torch.bool)
            outside[self.kept[layer]] = False
            z = z.masked_fill(outside, 0)
        return self.mlps[layer].down_proj(z)


@contextmanager
def tapped(model: Any) -> Iterator[Tap]:
    """Replace the forward of every MLP of an unpatched model within the context."""
    tap = Tap([layer.mlp for layer in model.model.layers])
    tap.latest = [torch.empty(0)] * len(tap.mlps)
    for index, mlp in enumerate(tap.mlps):
        assert "forward" not in vars(mlp), "the reference needs an unpatched model"
        mlp.forward = lambda x, index=index: tap.forward(index, x)
    try:
        yield tap
    finally:
        for mlp in tap.mlps:
            del mlp.forward


class Statistics:
    """Every counted z, phase by phase, and the selections made from them."""

    def __init__(self, settings: Settings, downs: Sequence[Tensor], rows: int, dtype: torch.dtype) -> None:
        self.settings, self.rows = settings, rows
        self.layers, self.neurons = len(downs), downs[0].shape[1]
        self.downs = downs  # per layer, W_2 [D, F]
        self.dtype = dtype  # of the scores
        self.phases: list[list[list[list[Tensor]]]] = []  # [phase][layer][row][token] z [F]
        # [layer][row][ended phase] s [F], None where T_b = 0
        self.scores: list[list[list[Tensor | None]]] = [[[] for _ in range(rows)] for _ in range(self.layers)]
        self.open_phase()

    def open_phase(self) -> None:
        """Begin the next phase."""
        self.phases.append([[[] for _ in range(self.rows)] for _ in range(self.layers)])

    def collect(self, latest: Sequence[Tensor], counted: Sequence[Sequence[int]]) -> None:
        """Store the z of every token of a forward whose flag in `counted` [B][T] is 1."""
        for layer, z in enumerate(latest):
            for row, flags in enumerate(counted):
                self.phases[-1][layer][row] += [z[row, t].clone() for t, flag in enumerate(flags) if flag]

    def close_phase(self) -> None:
        """Score every row over the phase that ends here, and begin the next phase."""
        for layer in range(self.layers):
            for row in range(self.rows):
                stored = self.phases[-1][layer][row]
                self.scores[layer][row].append(score(stored, self.neurons, self.dtype) if stored else None)
        self.open_phase()

    def select(self, step: int, finished: Sequence[bool]) -> Selection | None:
        """Return the retained set of every layer, or None if no row counts."""
        k = kept_count(self.settings.sparsity, self.neurons)
        selection = Selection(step, [], [], math.inf)
        for layer in range(self.layers):
            memories = []
            for row in range(self.rows):
                memory = remember(self.settings, self.scores[layer][row])
                if memory is not None and not (self.settings.forget_finished and finished[row]):
                    memories.append(memory)
            if not memories:
                return None
            mbar = weigh(self.settings, aggregate(self.settings, memories), self.downs[layer])
            kept, gap = retain(mbar, k)
            selection.kept.append(kept)
            selection.scores.append(mbar)
            selection.gap = min(selection.gap, gap)
        return selection


class Writer:
    """Chooses the next token of each row greedily, as transformers does.

    Logits are compared in float32. A row that has ended gets the pad token.
    """

    def __init__(self, settings: Settings, rows: int) -> None:
        self.settings = settings
        self.generated: list[list[int]] = [[] for _ in range(rows)]  # including the pads after a row's end
        self.gaps: list[float] = []

    def choose(self, logits: Tensor) -> None:
        """Append one token to every row, chosen from the logits [B, V] of the last position."""
        finished, gaps = self.finished(), []
        for row, values in enumerate(logits.to(torch.float32)):
            if finished[row]:
                self.generated[row].append(self.settings.pad)
                continue
            first, second = values.topk(2).values.tolist()
            gaps.append((first - second) / abs(first))
            self.generated[row].append(int(values.argmax()))
        self.gaps.append(min(gaps))

    def finished(self) -> list[bool]:
        """Return for each row whether it has generated an EOS. EOS ids in the prompt do not end a row."""
        return [any(token in self.settings.eos for token in row) for row in self.generated]

    def done(self) -> bool:
        """Return whether decoding ends."""
        return all(self.finished()) or len(self.generated[0]) == self.settings.max_new_tokens

    def cut(self) -> list[list[int]]:
        """Return the tokens of each row up to and including its EOS."""
        rows = []
        for row in self.generated:
            end = next((i + 1 for i, token in enumerate(row) if token in self.settings.eos), len(row))
            rows.append(row[:end])
        return rows


def generate(model: Any, prompts: Sequence[Sequence[int]], settings: Settings) -> Outcome:
    """Decode a batch of unpadded prompts greedily with batch-wise adaptive pruning."""
    ids, mask = left_pad(prompts, settings.pad)
    layers, neurons, rows = model.config.num_hidden_layers, model.config.intermediate_size, len(prompts)
    writer = Writer(settings, rows)
    statistics = Statistics(
        settings,
        [layer.mlp.down_proj.weight for layer in model.model.layers],
        rows,
        torch.float64 if model.dtype == torch.float64 else torch.float32,
    )
    cache = DynamicCache(config=model.config)
    selections: list[Selection] = []
    step = sparse_steps = neurons_computed = 0

    def feed(tokens: Tensor) -> None:
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)[:, -tokens.shape[1] :]
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        writer.choose(output.logits[:, -1])

    def end_of_dense_stage() -> None:
        statistics.close_phase()
        selection = statistics.select(step, writer.finished()) if ends_dense_stage(settings, step) else None
        if selection is not None:
            selections.append(selection)

    with torch.no_grad(), tapped(model) as tap:
        feed(ids)
        statistics.collect(tap.latest, mask.tolist())
        end_of_dense_stage()
        while not writer.done():
            step += 1
            # The token fed now is not an EOS and does not follow one.
            live = [not finished for finished in writer.finished()]
            sparse = is_sparse(settings, step)
            tap.kept = selections[-1].kept if sparse else None
            mask = torch.cat([mask, torch.ones(rows, 1, dtype=mask.dtype)], dim=1)
            feed(torch.tensor([[row[-1]] for row in writer.generated]))
            if sparse:
                selections[-1].sparse_steps += 1
                sparse_steps += 1
                neurons_computed += sum(len(kept) for kept in selections[-1].kept)
                continue
            neurons_computed += layers * neurons
            statistics.collect(tap.latest, [[int(flag)] for flag in live])
            if ends_dense_stage(settings, step):
                end_of_dense_stage()

    tokens = writer.cut()
    return Outcome(
        tokens=tokens,
        columns=[list(column) for column in zip(*writer.generated, strict=True)],
        finish_reasons=["eos" if row[-1] in settings.eos else "length" for row in tokens],
        selections=selections,
        logit_gaps=writer.gaps,
        counts=[[len(row) for row in phase[0]] for phase in statistics.phases[:-1]],
        decode_steps=step,
        sparse_steps=sparse_steps,
        neurons_computed=neurons_computed,
    )


def griffin(model: Any, prompt: Sequence[int], sparsity: str) -> list[list[int]]:
    """Return GRIFFIN's experts for one prompt, per layer.

    They are the k neurons whose columns of the row-normalised Z [P, F] have the largest norms.
    """
    with torch.no_grad(), tapped(model) as tap:
        model(input_ids=torch.tensor([list(prompt)]), use_cache=False)
    experts = []
    for z in tap.latest:
        relative = z[0] / z[0].norm(dim=1, keepdim=True)
        experts.append(retain(relative.norm(dim=0), kept_count(sparsity, relative.shape[1]))[0])
    return experts
