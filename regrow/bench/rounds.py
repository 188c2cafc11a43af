"""Times whole generations step by step.

All contenders get the same prompts and run in turn, for several rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from regrow.adapter.find import find_ffns
from regrow.adapter.patch import Patch
from regrow.adapter.survey import survey
from regrow.bench.clock import Clock
from regrow.bench.replay import replayed
from regrow.bench.roofline import Weights, per_step, weights_of
from regrow.calibration.calibration import Calibration
from regrow.decoding.memory import out_of_memory
from regrow.errors import NoMemoryError
from regrow.hosts.engine import Engine
from regrow.method.base import Method
from regrow.method.dense import Dense
from regrow.selection.budget import keep_count
from regrow.selection.schedule import Schedule

WARM = 3  # new tokens of a warm-up run on a CPU: enough to make copies and caches


class Peer(Protocol):
    """Another engine that runs the same weights."""

    def run(self, ids: Tensor, new: int, /) -> Sequence[tuple[str, float]]:
        """Decodes `new` tokens for prompts ids [B, P].

        Returns each phase ("prompt" or "dense") with its seconds.
        """
        ...


@final
@dataclass(frozen=True)
class Contender:
    """A method in Regrow's loop, or another engine. With neither, it is transformers' own `generate`."""

    label: str
    method: Method | None = None
    calibration: Callable[[int], Calibration] | None = None  # for a batch of so many rows
    cache: str = "dynamic"  # kind of KV cache that transformers' own `generate` uses
    peer: Peer | None = None


@final
@dataclass(frozen=True)
class Setting:
    """The sizes of one measured batch."""

    rows: int
    prompt: int  # tokens
    new: int  # tokens

    @property
    def context(self) -> int:
        """Tokens of one row in the KV cache at the middle decode step."""
        return self.prompt + self.new // 2


@final
@dataclass
class Measured:
    """Seconds of one contender in one setting."""

    decode: list[float] = field(default_factory=list)  # everything after the prompt, one entry a run
    # Phases: prompt, dense, observe, sparse (one entry a step), refresh (one entry a mask).
    parts: dict[str, list[float]] = field(default_factory=dict)
    turnover: float | None = None
    sparsity: float | None = None  # actual one, of a method that decides by thresholds

    def add(self, spans: Sequence[tuple[str, float]]) -> None:
        """Adds the phases of one run, with their seconds."""
        for name, seconds in spans:
            self.parts.setdefault(name, []).append(seconds)
        self.decode.append(sum(seconds for name, seconds in spans if name != "prompt"))


@final
class Runner:
    """Runs contenders on one model.

    `turnover`: the share of the retained neurons that a refresh replaces. With None, the model's activations
    decide which neurons are replaced.
    """

    def __init__(self, model: PreTrainedModel, turnover: float | None) -> None:
        self._model, self._turnover = model, turnover
        self.weights: Weights = weights_of(model)
        ffns = find_ffns(model)
        self._layers, self._neurons = len(ffns), len(ffns[0].weights.gate)

    def measure(
        self, contenders: Sequence[Contender], setting: Setting, repeats: int, progress: Callable[[str], None]
    ) -> dict[str, Measured]:
        """Runs every contender once a round, for one warm-up round and `repeats` measured rounds.

        Prompts are random tokens. A contender that does not fit in memory is left out. The first contender is
        the baseline: if it does not fit, nothing is returned.
        """
        generator = torch.Generator().manual_seed(0)
        vocabulary = self._model.config.vocab_size
        # Without an attention mask, token 0 would count as padding (see `_run`).
        ids = torch.randint(1, vocabulary, (setting.rows, setting.prompt), generator=generator).to(
            self._model.device
        )
        # On a GPU a warm-up run is as long as a measured one, so that it captures every kind of step and
        # allocates the KV cache at its final size.
        warm = setting.new if ids.is_cuda else WARM
        found = {contender.label: Measured() for contender in contenders}
        with Patch() as patch:
            patch.replace(self._model.generation_config, "eos_token_id", None)  # every row runs to the end
            for number in range(repeats + 1):
                for contender in [one for one in contenders if one.label in found]:
                    progress(
                        f"batch {setting.rows}, {contender.label}, "
                        f"{f'run {number} of {repeats}' if number else 'warming up'}"
                    )
                    into = found[contender.label] if number else Measured()
                    try:
                        with out_of_memory(contender.label):
                            self._run(contender, ids, setting.new if number else warm, warm, into)
                    except NoMemoryError:
                        if contender is contenders[0]:
                            return {}
                        del found[contender.label]
        return found

    def _run(self, contender: Contender, ids: Tensor, new: int, warm: int, into: Measured) -> None:
        if contender.peer is not None:
            into.add(contender.peer.run(ids, new))
            return
        options: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        if contender.method is None:
            self._stock(contender, ids, options, into)
            return
        calibration = None if contender.calibration is None else contender.calibration(len(ids))
        with Engine(self._model, contender.method, calibration=calibration, owns_model=True) as engine:
            session = engine.session
            if self._turnover is not None:
                session.pruner.memory.dictate(
                    self._replayed(self._turnover, contender.method, session.pruner.schedule, new)
                )
            generate: Any = self._model.generate
            generate(ids if ids.is_cuda else ids[:, :1], **{**options, "max_new_tokens": warm})
            clock = Clock(ids.device)
            generate(ids, mark=clock.mark, **options)
            into.add(clock.spans())
            report = session.report()
            if contender.calibration is not None:
                into.sparsity = report.actual_sparsity
            if len(report.turnover) and report.updates > 1:
                into.turnover = statistics.mean(report.turnover)

    def _replayed(self, turnover: float, method: Method, schedule: Schedule, new: int) -> list[Tensor]:
        """Returns scores for every selection within `new` tokens: after the prompt and after each phase."""
        selections = 1 + sum(schedule.closes(step) for step in range(1, new))
        keep = keep_count(method.target, self._neurons)
        return replayed(self._layers, self._neurons, keep, turnover=turnover, selections=selections)

    def _stock(self, contender: Contender, ids: Tensor, options: Mapping[str, Any], into: Measured) -> None:
        """Runs transformers' own loop."""
        clock = Clock(ids.device)
        cache = {} if contender.cache == "dynamic" else {"cache_implementation": contender.cache}
        generate: Any = self._model.generate
        generate(ids, logits_processor=LogitsProcessorList([_Marks(clock)]), **cache, **options)
        into.add(clock.spans())

    def bytes_per_step(self, contender: Contender, setting: Setting, sparsity: float | None = None) -> float:
        """Mean bytes of a decode step over a period of the method, with those that its refreshes move.

        `sparsity`: the actual one, if it is not the method's target.
        """
        method, weights = contender.method, self.weights.read_by(contender.method)
        dense = weights.dense(setting.rows, setting.context)
        if method is None:
            return float(dense)
        schedule = self._schedule(method)
        # A CPU copies the neurons of a new mask. A GPU reads them in place, through an index.
        copies = schedule.explore_steps > 0 and self._model.device.type == "cpu"
        moved = 2 * (self._turnover or 0) * (1 - float(method.target)) * weights.ffn if copies else 0
        return per_step(
            dense, weights.pruned(method, setting.rows, setting.context, sparsity), schedule, moved
        )

    def bytes_dense(self, setting: Setting) -> int:
        """Bytes of a decode step of the dense model."""
        return self.weights.read_by(Dense()).dense(setting.rows, setting.context)

    def _schedule(self, method: Method) -> Schedule:
        blocks, _ = survey(self._model, method.surface, method.sites)
        return method.pruner(blocks, {}).schedule


@final
class _Marks(LogitsProcessor):
    """Marks the end of every forward pass of transformers' own loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._name = clock, "prompt"

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        self._clock.mark(self._name)
        self._name = "dense"
        return scores
