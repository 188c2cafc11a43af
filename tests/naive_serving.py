"""A deliberately slow reference of Batch-wise Adaptive Pruning for requests that come and go.

It is written from docs/serving.md and shares no code with regrow. Every request has a KV cache of its own and
is fed alone, so only the mask connects them. The z of every counted token is kept, and scored when a phase
ends. Which tokens of which requests a pass holds is given from outside, since a server decides it.

Tensor parallelism splits the neurons of a layer into contiguous blocks. Each block keeps the same share of
its neurons, by scores that are relative to the norm over all blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from naive import Tap, tapped
from naive_rules import Settings, aggregate, ends_dense_stage, is_sparse, kept_count, remember, retain, score


@dataclass
class Row:
    """One request."""

    tokens: list[int]  # prompt and answer
    cache: DynamicCache
    computed: int = 0  # tokens with keys and values
    decoding: bool = False  # the prompt is complete
    open: list[list[Tensor]] = field(default_factory=list)  # [layer][token] z [F] of the phase under way
    scores: list[list[Tensor | None]] = field(default_factory=list)  # [layer][ended phase] s [F]


@dataclass
class NaiveServer:
    """Greedy decoding of requests with one mask, whose members change from pass to pass."""

    model: Any
    settings: Settings
    join: str  # refresh or dense
    shards: int = 1  # blocks of neurons
    rows: dict[str, Row] = field(default_factory=dict)
    clock: int = 0  # decode steps so far
    dense_until: int = 0
    kept: list[list[int]] | None = None  # per layer
    sparse_steps: int = 0
    masks: list[tuple[int, list[list[int]]]] = field(default_factory=list)  # (decode step, neurons by layer)
    gap: float = float("inf")  # smallest relative gap around the k-th score of any selection

    def step(
        self, ended: Iterable[str], scheduled: Mapping[str, int], known: Mapping[str, list[int]]
    ) -> dict[str, int]:
        """Run one pass of `scheduled` tokens by request, and return the next tokens by request.

        `ended` are the requests that have ended or been preempted since the pass before. `known` are the
        tokens of requests that are new, or that come back after a preemption.
        """
        for name in ended:
            self.rows.pop(name, None)
        for name in scheduled:
            if name not in self.rows:
                layers = len(self.model.model.layers)
                self.rows[name] = Row(
                    list(known[name]),
                    DynamicCache(config=self.model.config),
                    open=[[] for _ in range(layers)],
                    scores=[[] for _ in range(layers)],
                )
        decoding = {name: self.rows[name].decoding for name in scheduled}
        sparse = all(decoding.values()) and self._sparse(self.clock + 1)
        with torch.no_grad(), tapped(self.model) as tap:
            tap.kept = self.kept if sparse else None
            found = {
                name: self._feed(tap, self.rows[name], count, sparse) for name, count in scheduled.items()
            }
        if any(decoding.values()):
            self.clock += 1
            self.sparse_steps += sparse
        completed = [name for name in scheduled if self.rows[name].computed == len(self.rows[name].tokens)]
        newcomers = [name for name in completed if not decoding[name]]
        for name in newcomers:
            self.rows[name].decoding = True
        stage_ended = any(decoding.values()) and (
            ends_dense_stage(self.settings, self.clock) or self.clock == self.dense_until
        )
        if newcomers and self.join == "dense" and self.settings.init_steps:
            self.dense_until = self.clock + self.settings.init_steps
        closing = [row for row in self.rows.values() if row.decoding] if stage_ended else []
        for row in closing or [self.rows[name] for name in newcomers]:
            self._close(row)
        if (stage_ended or newcomers) and self._sparse(self.clock + 1):
            self._select()
        tokens = {name: found[name] for name in completed}
        for name, token in tokens.items():
            self.rows[name].tokens.append(token)
        return tokens

    def _sparse(self, step: int) -> bool:
        return step > self.dense_until and is_sparse(self.settings, step)

    def _feed(self, tap: Tap, row: Row, count: int, sparse: bool) -> int:
        """Feed the next tokens of a row alone, and return the likeliest token after them."""
        fed = row.tokens[row.computed : row.computed + count]
        position = torch.arange(row.computed, row.computed + count)[None]
        out = self.model(
            torch.tensor([fed]), position_ids=position, past_key_values=row.cache, use_cache=True
        )
        row.computed += count
        if not sparse:
            for layer, z in enumerate(tap.latest):
                row.open[layer] += [one.clone() for one in z[0]]
        return int(out.logits[0, -1].to(torch.float32).argmax())

    def _close(self, row: Row) -> None:
        for layer, stored in enumerate(row.open):
            neurons = self.model.config.intermediate_size
            row.scores[layer].append(score(stored, neurons, torch.float32) if stored else None)
            stored.clear()

    def _select(self) -> None:
        neurons, chosen = self.model.config.intermediate_size // self.shards, []
        k = kept_count(self.settings.sparsity, neurons)
        for layer in range(len(self.model.model.layers)):
            memories = [remember(self.settings, row.scores[layer]) for row in self.rows.values()]
            counted = [memory for memory in memories if memory is not None]
            if not counted:
                return
            kept: list[int] = []
            for shard, block in enumerate(aggregate(self.settings, counted).split(neurons)):
                own, gap = retain(block, k)
                kept += [shard * neurons + j for j in own]
                self.gap = min(self.gap, gap)
            chosen.append(kept)
        self.kept = chosen
        self.masks.append((self.clock, chosen))


def replay(
    model: Any, passes: Iterable[Mapping[str, Any]], settings: Settings, join: str, shards: int = 1
) -> tuple[NaiveServer, dict[str, list[int]]]:
    """Run a naive server through passes that an engine has scheduled, and return it with the new tokens."""
    server, tokens = NaiveServer(model, settings, join, shards), dict[str, list[int]]()
    for one in passes:
        for name, token in server.step(one["left"], one["scheduled"], one["known"]).items():
            tokens.setdefault(name, []).append(token)
    return server, tokens
