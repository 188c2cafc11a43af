"""Prompts through a model in fixed batches; every sample is handed on as soon as it is finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from regrow.calibration.result import Calibration
from regrow.cli.bar import Bar
from regrow.cli.sampling import Sampling
from regrow.cli.totals import Totals
from regrow.decoding.loop import Progress
from regrow.errors import UsageError
from regrow.hosts.hugging_face import Generation, generate, prune
from regrow.method.base import Method
from regrow.models import Loaded, encode
from regrow.report import Report

LARGEST_BATCH = 16  # unless the user asks for more
LONGEST_ANSWER = 1024  # likewise


@final
@dataclass(frozen=True)
class Sample:
    index: int  # of the prompt, from 0
    prompt: str
    text: str  # without special tokens
    tokens: list[int]  # new ones, the EOS included
    finish_reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"type": "sample", **asdict(self)}


@final
@dataclass(frozen=True)
class Plan:
    method: Method
    calibration: Calibration | None = None
    batch_size: int | None = None  # None: all prompts, up to LARGEST_BATCH
    max_new_tokens: int | None = None  # None: what the context leaves, up to LONGEST_ANSWER
    chat: bool | None = None
    skip_layers: Collection[int] = ()
    sampling: Sampling = field(default_factory=Sampling)


@final
@dataclass(frozen=True)
class _Batch:
    start: int  # index of its first prompt
    ids: Tensor  # [B, P]
    mask: Tensor  # [B, P]
    new: int  # tokens it may generate


@final
class Decoding:
    """All that can be wrong with prompts and limits is found when it is made, before the first token."""

    def __init__(self, loaded: Loaded, prompts: Sequence[str], plan: Plan) -> None:
        """Raises UsageError for prompts that do not fit."""
        self.loaded, self.plan, self._prompts = loaded, plan, prompts
        eos = loaded.model.generation_config.eos_token_id
        self._eos = {eos} if isinstance(eos, int) else set(eos or ())
        ids, mask = encode(loaded, prompts, chat=plan.chat)
        size = plan.batch_size or LARGEST_BATCH
        self._batches = [self._batch(start, ids[start : start + size], mask[start : start + size]) for start in range(0, len(ids), size)]

    def run(self, finished: Callable[[Sample], None]) -> Totals:
        """`finished` is told every sample once, in the order in which they end."""
        if self.plan.sampling.seed is not None:
            torch.manual_seed(self.plan.sampling.seed)
        with prune(self.loaded.model, self.plan.method, self.plan.skip_layers, self.plan.calibration), Bar() as bar:
            return Totals.of([self._run(number, batch, bar, finished) for number, batch in enumerate(self._batches, 1)])

    def _batch(self, start: int, ids: Tensor, mask: Tensor) -> _Batch:
        """Without the padding that only other batches need."""
        width = int(mask.sum(dim=1).max())
        return _Batch(start, ids[:, -width:], mask[:, -width:], self._room(start + int(mask.sum(dim=1).argmax()), width))

    def _room(self, longest: int, width: int) -> int:
        """How many tokens a batch may generate; `longest` is the index of its longest prompt, of `width` tokens."""
        asked, context = self.plan.max_new_tokens, self.loaded.context
        if context is None:
            return LONGEST_ANSWER if asked is None else asked
        if asked is not None and asked > context - width:
            raise UsageError(
                f"prompt {longest + 1} has {width} tokens, so --max-new-tokens {asked} does not fit the context of {context}; "
                f"at most {context - width} do"
            )
        return min(LONGEST_ANSWER, context - width) if asked is None else asked

    def _run(self, number: int, batch: _Batch, bar: Bar, finished: Callable[[Sample], None]) -> Report:
        told: set[int] = set()
        rows = len(batch.ids)

        def tell(row: int, tokens: list[int], reason: str) -> None:
            told.add(row)
            with bar.aside():
                finished(self._sample(batch.start + row, tokens, reason))

        def watch(progress: Progress) -> None:
            for row, ended in enumerate(progress.finished):
                if ended and row not in told:
                    tokens = self._until_eos(progress.tokens[row].tolist())
                    if tokens:
                        tell(row, tokens, "eos")
            bar.show(progress.step, f"{progress.step} tokens, {sum(progress.finished)} of {rows} finished")

        bar.begin(f"batch {number} of {len(self._batches)}", batch.new)
        limits = {"max_new_tokens": batch.new, **self.plan.sampling.arguments}
        done: Generation = generate(self.loaded.model, batch.ids, batch.mask, watch=watch, **limits)
        for row, (tokens, reason) in enumerate(zip(done.tokens, done.report.finish_reasons, strict=True)):
            if row not in told:
                tell(row, tokens, reason)
        return done.report

    def _until_eos(self, row: list[int]) -> list[int]:
        """The row up to its first EOS; nothing if it was stopped by something else, whose place is known at the end of the batch."""
        place = next((i for i, token in enumerate(row) if token in self._eos), -1)
        return row[: place + 1]

    def _sample(self, index: int, tokens: list[int], reason: str) -> Sample:
        text = self.loaded.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Sample(index, self._prompts[index], str(text), tokens, reason)
