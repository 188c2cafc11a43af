"""How far a pruned model's next-token distributions are from the dense ones, along answers the dense model gave.

Cheaper and sharper than accuracy: every token of every trace counts, and no answer goes astray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import final

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from regrow.calibration.calibration import Calibration
from regrow.errors import RegrowError
from regrow.hosts.generate import generate
from regrow.hosts.hugging_face import prune
from regrow.method.base import Method
from regrow.method.dense import Dense
from regrow.models import Loaded, encode


@final
@dataclass(frozen=True)
class Divergence:
    """Sums over the decode steps of all rows, up to their EOS."""

    tokens: int
    kl: float  # nats, of KL(dense || pruned)
    agreeing: int  # the likeliest token is the same
    weights_kept: int
    weights_dense: int

    @property
    def mean_kl(self) -> float:
        return self.kl / self.tokens

    @property
    def agreement(self) -> float:
        return self.agreeing / self.tokens


@final
@dataclass(frozen=True)
class Trace:
    """A batch as the dense model answered it."""

    ids: Tensor  # [B, P]
    mask: Tensor  # [B, P]
    tokens: Tensor  # [B, N], padded after a row's end
    lengths: Tensor  # [B]
    logits: list[Tensor]  # [N] of [B, V]: what each token was chosen from


def trace(loaded: Loaded, prompts: Sequence[str], *, chat: bool, max_new_tokens: int) -> Trace:
    ids, mask = encode(loaded, prompts, chat=chat)
    seen = _Watcher()
    done = generate(
        loaded.model,
        ids,
        mask,
        method=Dense(),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        logits_processor=seen.list,
        **loaded.beside_prompts,
    )
    lengths = torch.tensor([len(row) for row in done.tokens], device=ids.device)
    return Trace(ids, mask, done.sequences[:, ids.shape[1] :], lengths, seen.logits)


def divergence(
    loaded: Loaded,
    method: Method,
    calibration: Calibration | None,
    traces: Sequence[Trace],
    progress: Callable[[int, int], None] | None = None,
) -> Divergence:
    """Of a method over traces, each decoded with the dense model's tokens in the place of its own. The first token of a row is left out:
    it comes from the prompt. `progress` is told (traces done, of how many). Raises RegrowError where there is nothing to compare, or logits
    are not finite."""
    total, kept, dense = torch.zeros(3, dtype=torch.float64, device=loaded.model.device), 0, 0
    with prune(loaded.model, method, calibration=calibration) as session:
        for done, of in enumerate(traces, 1):
            forced = _Forced(of)
            steps = of.tokens.shape[1]
            generate(
                loaded.model,
                of.ids,
                of.mask,
                max_new_tokens=steps,
                do_sample=False,
                logits_processor=forced.list,
            )
            total += forced.total
            report = session.report()
            kept, dense = kept + report.weights_kept, dense + report.weights_dense
            if progress is not None:
                progress(done, len(traces))
    tokens, kl, agreeing = total.tolist()
    if not tokens:
        raise RegrowError(
            "the dense answers have no token after the first, so that there is nothing to compare; choose other prompts"
        )
    if not isfinite(kl):
        raise RegrowError(
            f"method {method.name!r} gives logits that are not finite; load the model in bfloat16 or float32"
        )
    return Divergence(int(tokens), kl, int(agreeing), kept, dense)


@final
class _Watcher(LogitsProcessor):
    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.list = LogitsProcessorList([self])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        self.logits.append(scores.clone())
        return scores


@final
class _Forced(LogitsProcessor):
    """Compares what the loop is about to choose from with what the trace chose from, and leaves it the trace's choice."""

    def __init__(self, trace: Trace) -> None:
        self._trace, self._prompt = trace, trace.ids.shape[1]
        self.total = torch.zeros(3, dtype=torch.float64, device=trace.ids.device)  # tokens, KL, agreeing
        self.list = LogitsProcessorList([self])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._prompt
        if step:
            self._compare(step, scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, self._trace.tokens[:, step, None], 0)

    def _compare(self, step: int, scores: Tensor) -> None:
        live, dense = step < self._trace.lengths, self._trace.logits[step]
        p, q = torch.log_softmax(dense.double(), dim=-1), torch.log_softmax(scores.double(), dim=-1)
        kl = torch.where(p.exp() > 0, p.exp() * (p - q), 0).sum(dim=-1).clamp_(min=0)
        same = dense.argmax(dim=-1) == scores.argmax(dim=-1)
        self.total += torch.stack([live.sum(), kl[live].sum(), (same & live).sum()])
