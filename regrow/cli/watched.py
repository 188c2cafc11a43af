"""A batch under way."""

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
    """One batch while it is decoded: its samples as they finish, and how far it is."""

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[Prompt],
        batch: PromptBatch,
        bar: Bar,
        what: str,
        steps: int,
        finished: Callable[[Sample], None],
    ) -> None:
        eos = loaded.model.generation_config.eos_token_id
        self._eos = {eos} if isinstance(eos, int) else set(eos or ())
        self._tokenizer, self._prompts = loaded.tokenizer, prompts
        self._batch, self._bar, self._finished = batch, bar, finished
        self._what, self._steps = what, steps  # steps there were, at most, in the batches before
        self._began = time.monotonic()
        self._samples: dict[int, Sample] = {}  # by row

    def step(self, progress: Progress) -> None:
        for row, ended in enumerate(progress.finished):
            if ended and row not in self._samples:
                tokens = self._until_eos(progress.tokens[row].tolist())
                if tokens:
                    self.end(row, tokens, "eos")
        count, rows = sum(progress.finished), len(progress.finished)
        speed = rate(progress.step / max(time.monotonic() - self._began, 1e-9))
        note = f"{self._what}, {progress.step} tokens, {count} of {rows} finished, {speed} steps/s"
        self._bar.show(self._steps + progress.step, note)

    def end(self, row: int, tokens: list[int], reason: str) -> None:
        """Told once, however often it is called."""
        if row not in self._samples:
            self._samples[row] = self._sample(self._batch.start + row, tokens, reason)
            with self._bar.aside():
                self._finished(self._samples[row])

    def samples(self) -> list[Sample]:
        return [self._samples[row] for row in sorted(self._samples)]

    def _until_eos(self, row: list[int]) -> list[int]:
        """The row up to its first EOS; nothing if it was stopped by something else, whose place is known at
        the end of the batch."""
        place = next((i for i, token in enumerate(row) if token in self._eos), -1)
        return row[: place + 1]

    def _sample(self, index: int, tokens: list[int], reason: str) -> Sample:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        prompt = self._prompts[index]
        return Sample(index, prompt.text, str(text), tokens, reason, prompt.fields)
