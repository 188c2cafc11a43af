"""What `regrow generate` writes on standard output: for people, or JSON lines for programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regrow.cli.output import line
from regrow.format import duration, parameters, percent, rate

if TYPE_CHECKING:
    from regrow.cli.decode import Decoding, Sample
    from regrow.cli.totals import Totals

_PROMPT_SHOWN = 200  # characters of a prompt that are repeated above its answer


class View(ABC):
    @abstractmethod
    def sample(self, sample: Sample) -> None: ...

    @abstractmethod
    def end(self, decoding: Decoding, totals: Totals) -> None: ...


@final
class JsonLines(View):
    def sample(self, sample: Sample) -> None:
        typer.echo(line(sample.to_dict()))

    def end(self, decoding: Decoding, totals: Totals) -> None:
        from regrow.versions import versions

        loaded, plan = decoding.loaded, decoding.plan
        about = {
            "model": loaded.name,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "device": str(loaded.model.device),
            "skip_layers": sorted(set(plan.skip_layers)),
            "sampling": plan.sampling.to_dict(),
        }
        typer.echo(line({"type": "summary", **about, **totals.to_dict(), "versions": versions()}))


@final
class Screen(View):
    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def sample(self, sample: Sample) -> None:
        title = f"sample {sample.index + 1}: {len(sample.tokens)} tokens, {_ENDS.get(sample.finish_reason, sample.finish_reason)}"
        self._console.rule(Text(title, style="bold"), align="left")
        shown = sample.prompt if len(sample.prompt) <= _PROMPT_SHOWN else f"{sample.prompt[:_PROMPT_SHOWN]}…"
        self._console.print(Text(shown, style="dim"), soft_wrap=True)
        self._console.print(Text(sample.text), soft_wrap=True)

    def end(self, decoding: Decoding, totals: Totals) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        for name, value in _summary(decoding, totals):
            table.add_row(name, Text(value))
        self._console.rule(Text("summary", style="bold"), align="left")
        self._console.print(table)


_ENDS = {"eos": "ended by itself", "length": "cut at the limit"}


def _summary(decoding: Decoding, totals: Totals) -> list[tuple[str, str]]:
    loaded, drawn = decoding.loaded, decoding.plan.sampling
    settings = dict(totals.method)
    name = settings.pop("name")
    ends = ", ".join(f"{count} {_ENDS.get(reason, reason)}" for reason, count in sorted(totals.finish_reasons.items()))
    return [
        ("model", f"{loaded.name}, {str(loaded.model.dtype).removeprefix('torch.')} on {loaded.model.device}"),
        ("method", f"{name}: {parameters(settings)}" if settings else name),
        ("sampling", f"temperature {drawn.temperature:g}, top-p {drawn.top_p:g}, seed {drawn.seed}" if drawn.temperature else "greedy"),
        ("samples", f"{totals.samples}: {ends}"),
        (
            "actual sparsity",
            f"{percent(totals.actual_sparsity)} of the weights it prunes, over all decode steps (target {percent(totals.target_sparsity)})",
        ),
        ("sparse steps", f"{totals.sparse_steps} of {totals.decode_steps} ({percent(totals.sparse_share)})"),
        ("time", f"prompts {duration(totals.prefill_seconds)}, decoding {duration(totals.decode_seconds)}"),
        ("speed", f"{rate(totals.decode_tokens_per_second)} tokens/s, all samples together"),
    ]
