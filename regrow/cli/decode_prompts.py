"""Decodes prompts in fixed batches.

Callbacks get each sample when it finishes and each batch when it is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from regrow.cli import own_settings
from regrow.cli.bar import Bar
from regrow.cli.generate_plan import LONGEST_ANSWER, GeneratePlan, PromptBatch, Sample
from regrow.cli.own_settings import OwnSettings
from regrow.cli.prompt_rows import Prompt
from regrow.cli.totals import Totals
from regrow.cli.watched import Watched
from regrow.decoding.drafts.names import name_of
from regrow.decoding.loop import Progress
from regrow.errors import RegrowError, UsageError, said
from regrow.format import rate
from regrow.hosts.engine import Engine
from regrow.hosts.generate import Generation, generate
from regrow.models import Loaded, encode
from regrow.report import Report
from regrow.versions import versions


@final
class Decoding:
    """A run of `regrow generate`. Its constructor checks prompts and limits, before any token is decoded."""

    def __init__(self, loaded: Loaded, prompts: Sequence[Prompt], plan: GeneratePlan) -> None:
        """Raises UsageError for prompts that do not fit the context, or unsupported generation settings."""
        self.loaded, self.plan, self.prompts = loaded, plan, prompts
        self.draft: str | None = None  # the name of what drafts tokens, once that is known
        self.kept = 0  # number of samples from an earlier run; they are not decoded again
        self.own = OwnSettings.take(loaded, plan.sampling)
        ids, mask = encode(loaded, [prompt.text for prompt in prompts], chat=plan.chat)
        size = plan.batch_size
        self.batches = [
            self._batch(start, ids[start : start + size], mask[start : start + size])
            for start in range(0, len(ids), size)
        ]

    @property
    def sampling(self) -> dict[str, Any]:
        """Everything that decides how a token is chosen, and the model's own settings that are ignored."""
        drawn = self.plan.sampling.to_dict()
        if self.plan.sampling.temperature and "top_p" not in {**drawn, **self.own.held}:
            drawn["top_p"] = 1.0
        return {**drawn, **self.own.to_dict()}

    def about(self) -> dict[str, Any]:
        """Returns what was run, for a reader."""
        return {
            "model": self.loaded.label,
            **({} if self.loaded.rounded is None else {"weights": self.loaded.weights}),
            "dtype": str(self.loaded.model.dtype).removeprefix("torch."),
            "device": str(self.loaded.model.device),
            "skip_layers": sorted(set(self.plan.skip_layers)),
            "sampling": self.sampling,
            **self._lossless(),
        }

    def settings(self) -> dict[str, Any]:
        """Returns everything that decides the samples. Equal settings mean the same experiment."""
        plan, loaded = self.plan, self.loaded
        prompts = [[prompt.text, prompt.fields] for prompt in self.prompts]
        return {
            **self.about(),
            "method": plan.method.describe(),
            "calibration": plan.calibration.digest if plan.calibration else None,
            "batch_size": plan.batch_size,
            "max_new_tokens": plan.max_new_tokens,
            "chat": plan.chat,
            "fingerprint": loaded.fingerprint,
            "tokenizer_sha256": loaded.tokenizer_sha256,
            "chat_template_sha256": loaded.chat_template_sha256,
            "generation_settings": loaded.generation_settings,
            "prompts": {
                "count": len(prompts),
                "sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
            },
            "versions": versions(),
        }

    def run(
        self, on_sample: Callable[[Sample], None], on_batch: Callable[[list[Sample]], None]
    ) -> Totals | None:
        """Decodes all prompts except the first `kept`. Returns None if there are no others.

        Calls `on_sample(sample)` once for each sample, in the order in which they end, and
        `on_batch(samples)` once for each batch, in the order of the prompts.
        """
        batches = [
            (number, batch) for number, batch in enumerate(self.batches, 1) if batch.start >= self.kept
        ]
        plan, model, total = self.plan, self.loaded.model, sum(batch.new for _, batch in batches)
        own = model, plan.method, plan.skip_layers, plan.calibration
        with Engine(*own, owns_model=True) as engine, Bar() as bar:
            if plan.lossless is not None and batches:
                self.draft = name_of(plan.lossless.draft_for(engine.session, model.device, model.dtype))
            bar.begin("decoding", total)
            reports, steps = [], 0
            for number, batch in batches:
                watched = Watched(
                    self.loaded,
                    self.prompts,
                    batch,
                    bar,
                    f"batch {number} of {len(self.batches)}",
                    steps,
                    on_sample,
                )
                reports.append(self._run(batch, watched, _show_rounding(bar, total)))
                on_batch(watched.samples())
                steps += batch.new
                if len(batches) > 1:
                    speed = rate(reports[-1].counters.decode_tokens_per_second)
                    bar.ended(steps, f"batch {number} of {len(self.batches)} complete, {speed} tokens/s")
        return Totals.of(reports) if reports else None

    def _batch(self, start: int, ids: Tensor, mask: Tensor) -> PromptBatch:
        """Returns one batch, without the padding that only other batches need. ids, mask: [B, P]."""
        width = int(mask.sum(dim=1).max())
        return PromptBatch(
            start, ids[:, -width:], mask[:, -width:], self._room(start + int(mask.sum(dim=1).argmax()), width)
        )

    def _room(self, longest: int, width: int) -> int:
        """Returns how many tokens a batch may generate. Raises UsageError if the user asked for more.

        `longest`: index of the longest prompt of the batch, which has `width` tokens.
        """
        asked, context = self.plan.max_new_tokens, self.loaded.context
        if context is None:
            return LONGEST_ANSWER if asked is None else asked
        if asked is not None and asked > context - width:
            raise UsageError(
                f"prompt {longest + 1} has {width} tokens, so --max-new-tokens {asked} does not fit "
                f"the context of {context}; at most {context - width} do"
            )
        return min(LONGEST_ANSWER, context - width) if asked is None else asked

    def decode(
        self,
        batch: PromptBatch,
        watch: Callable[[Progress], None],
        rounding: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """Decodes one batch of the model, which is pruned. Calls both callbacks as `generate` does."""
        how = self.plan.sampling
        if how.temperature:
            torch.manual_seed(how.batch_seed(batch.start))
        limits = {"max_new_tokens": batch.new, **how.arguments(self.loaded.model.generation_config.top_k)}
        if self.own.needs_tokenizer:
            limits["tokenizer"] = self.loaded.tokenizer
        try:
            done: Generation = generate(
                self.loaded.model,
                batch.ids,
                batch.mask,
                watch=watch,
                lossless=self.plan.lossless or False,
                rounding=rounding,
                **limits,
            )
        except (ValueError, TypeError) as error:
            given = own_settings.beside_ids(self.loaded)
            if isinstance(error, RegrowError) or not given:
                raise
            held = ", ".join(f"{name} {value}" for name, value in given.items())
            raise RegrowError(
                f"the generation_config.json of {self.loaded.name} cannot be followed ({held}): "
                f"{said(error)}; correct that file"
            ) from error
        return done

    def _run(self, batch: PromptBatch, watched: Watched, rounding: Callable[[int, int], None]) -> Report:
        done = self.decode(batch, watched.step, rounding)
        for row, (tokens, reason) in enumerate(zip(done.tokens, done.report.finish_reasons, strict=True)):
            watched.end(row, tokens, reason)
        return done.report

    def _lossless(self) -> dict[str, Any]:
        """Returns the draft and the window that were asked for. A run that is not lossless has neither."""
        lossless = self.plan.lossless
        if lossless is None:
            return {}
        return {"lossless": {"draft": name_of(lossless.draft), "window": lossless.window}}


def _show_rounding(bar: Bar, total: int) -> Callable[[int, int], None]:
    """Returns a callback that shows the rounding of weights on the bar, before decoding of `total` steps."""

    def show(done: int, layers: int) -> None:
        if done == 1:
            bar.begin("rounding the weights to 4 bits", layers)
        bar.show(done, f"{done} of {layers} layers")
        if done == layers:
            bar.begin("decoding", total)

    return show
