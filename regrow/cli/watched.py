"""Follows a batch while it is decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import final

from regrow.cli.bar import Bar
from regrow.cli.generate_plan import PromptBatch, Sample
from regrow.cli.prompt_rows import Prompt
from regrow.decoding.loop import Progress
from regrow.format import rate
from regrow.models import Loaded


@final
class Watched:
    """Callbacks of one batch: pass on its samples as they finish, and show its progress on the bar.

    `steps`: largest possible number of steps of all batches before this one.
    """

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[Prompt],
        batch: PromptBatch,
        bar: Bar,
        description: str,
        steps: int,
        on_sample: Callable[[Sample], None],
    ) -> None:
        eos = loaded.model.generation_config.eos_token_id
        self._eos = {eos} if isinstance(eos, int) else set(eos or ())
        self._loaded, self._prompts = loaded, prompts
        self._batch, self._bar, self._on_sample = batch, bar, on_sample
        self._description, self._steps = description, steps
        self._began = time.monotonic()
        self._samples: dict[int, Sample] = {}  # by row

    def step(self, progress: Progress) -> None:
        """Called after a decode step: passes on the rows that have ended, and moves the bar."""
        for row, ended in enumerate(progress.finished):
            if ended and row not in self._samples:
                tokens = self._until_eos(progress.tokens[row].tolist())
                if tokens:
                    self.end(row, tokens, "eos")
        count, rows = sum(progress.finished), len(progress.finished)
        speed = rate(progress.step / max(time.monotonic() - self._began, 1e-9))
        done = f"{progress.step} tokens, {count} of {rows} finished, {speed} tokens/s a sample"
        self._bar.show(self._steps + progress.step, f"{self._description}, {done}")

    def end(self, row: int, tokens: list[int], reason: str) -> None:
        """Passes on the sample of an ended row. Further calls for the same row do nothing."""
        if row not in self._samples:
            self._samples[row] = self._sample(self._batch.start + row, tokens, reason)
            with self._bar.aside():
                self._on_sample(self._samples[row])

    def samples(self) -> list[Sample]:
        """Returns the samples that have ended, in the order of their rows."""
        return [self._samples[row] for row in sorted(self._samples)]

    def _until_eos(self, row: list[int]) -> list[int]:
        """Returns the row up to and with its first EOS.

        Empty if a stopping criterion ended the row: its position is only known when the batch ends.
        """
        place = next((i for i, token in enumerate(row) if token in self._eos), -1)
        return row[: place + 1]

    def _sample(self, index: int, tokens: list[int], reason: str) -> Sample:
        prompt = self._prompts[index]
        return Sample(index, prompt.text, self._loaded.decode(tokens), tokens, reason, prompt.fields)
