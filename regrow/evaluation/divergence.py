"""Measures how far a pruned model's next-token distributions are from the dense model's, along dense answers.

This is cheaper and sharper than accuracy: every token of every trace counts, and no answer goes astray after
a wrong token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final, final

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

TRACE_BYTES: Final = 2**31  # memory that the logits of dense answers may take


def most_traced_tokens(loaded: Loaded) -> int:
    """Returns how many tokens of dense answers can be kept with their logits, which are float32."""
    return TRACE_BYTES // (4 * loaded.embeddings)


@final
@dataclass(frozen=True)
class Divergence:
    """Sums over the decode steps of all rows, up to the EOS of each row."""

    tokens: int
    kl: float  # KL(dense || pruned) in nats
    agreeing: int  # tokens at which both models have the same top token
    weights_kept: int
    weights_dense: int

    @property
    def mean_kl(self) -> float:
        """Mean KL divergence of a token, in nats."""
        return self.kl / self.tokens

    @property
    def agreement(self) -> float:
        """Share of tokens at which both models have the same top token."""
        return self.agreeing / self.tokens


@final
@dataclass(frozen=True)
class Trace:
    """The dense model's answers to one batch."""

    ids: Tensor  # [B, P]
    mask: Tensor  # [B, P]
    tokens: Tensor  # [B, N], padded after a row's end
    lengths: Tensor  # [B]
    logits: list[Tensor]  # [N] of [B, V]: the logits that each token was chosen from


def trace(
    loaded: Loaded, prompts: Sequence[str], *, chat: bool, max_new_tokens: int, system: str = ""
) -> Trace:
    """Answers one batch of prompts with the dense model, greedily, and keeps the logits."""
    ids, mask = encode(loaded, prompts, chat=chat, system=system)
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
    """Compares a method with the dense model along traces.

    Each trace is decoded with the dense model's tokens instead of the method's own. The first token of each
    row is left out, because it comes from the prompt. `progress(done, total)` is called after each trace.
    Raises RegrowError if there is nothing to compare, or if logits are not finite.
    """
    total, kept, dense = torch.zeros(3, dtype=torch.float64, device=loaded.model.device), 0, 0
    with prune(loaded.model, method, calibration=calibration) as session:
        for done, answers in enumerate(traces, 1):
            forced = _Forced(answers)
            steps = answers.tokens.shape[1]
            generate(
                loaded.model,
                answers.ids,
                answers.mask,
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
            "the dense answers have no token after the first, so there is nothing to compare; "
            "choose other prompts"
        )
    if not isfinite(kl):
        raise RegrowError(
            f"method {method.name!r} gives logits that are not finite; load the model in bfloat16 or float32"
        )
    return Divergence(int(tokens), kl, int(agreeing), kept, dense)


@final
class _Watcher(LogitsProcessor):
    """Keeps the logits of every step."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.list = LogitsProcessorList([self])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        self.logits.append(scores.clone())
        return scores


@final
class _Forced(LogitsProcessor):
    """Compares the logits of each step with the trace's, then makes the loop choose the trace's token."""

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
