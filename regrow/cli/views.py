"""The output of `regrow generate`: text for people, or JSON lines for programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regrow.cli.output import line
from regrow.format import count, parameters
from regrow.report import ENDS, summary

if TYPE_CHECKING:
    from regrow.cli.decode_prompts import Decoding
    from regrow.cli.generate_plan import Sample
    from regrow.cli.sample_file import SampleFile
    from regrow.cli.totals import Totals

_PROMPT_SHOWN = 200  # characters of a prompt that are shown above its answer


class View(ABC):
    """Prints the samples of a run and its summary."""

    @abstractmethod
    def begin(self, earlier: Sequence[Mapping[str, Any]], file: SampleFile | None) -> None:
        """Called first. `earlier`: the samples that the file already holds."""

    @abstractmethod
    def sample(self, sample: Sample) -> None:
        """Called when a sample has finished."""

    @abstractmethod
    def end(self, decoding: Decoding, totals: Totals | None) -> None:
        """Called last. `totals` covers the samples decoded now; None if the file already held them all."""


@final
class JsonLines(View):
    """Prints one JSON object per sample, then one for the summary."""

    def begin(self, earlier: Sequence[Mapping[str, Any]], file: SampleFile | None) -> None:  # noqa: ARG002
        for sample in earlier:
            typer.echo(line(sample))

    def sample(self, sample: Sample) -> None:
        typer.echo(line(sample.to_dict()))

    def end(self, decoding: Decoding, totals: Totals | None) -> None:
        from regrow.versions import versions

        kept = {"kept": decoding.kept} if decoding.kept else {}
        counted = {"samples": 0} if totals is None else totals.to_dict()
        why = {"note": note} if totals is not None and (note := totals.note) else {}
        about = decoding.about() | ({"draft": decoding.draft} if decoding.draft else {})
        typer.echo(line({"type": "summary", **about, **kept, **counted, **why, "versions": versions()}))


@final
class SampleView(View):
    """Prints prompts and answers as they finish, then a table with the report of the run."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def begin(self, earlier: Sequence[Mapping[str, Any]], file: SampleFile | None) -> None:
        if earlier and file is not None:
            self._console.print(
                Text(f"{len(earlier)} samples are in {file.path} already; they are not decoded again"),
                soft_wrap=True,
            )

    def sample(self, sample: Sample) -> None:
        end = ENDS.get(sample.finish_reason, sample.finish_reason)
        title = f"sample {sample.index + 1}: {count(len(sample.tokens), 'token')}, {end}"
        self._console.rule(Text(title, style="bold"), align="left")
        shown = sample.prompt if len(sample.prompt) <= _PROMPT_SHOWN else f"{sample.prompt[:_PROMPT_SHOWN]}…"
        self._console.print(Text(shown, style="dim"), soft_wrap=True)
        self._console.print(Text(sample.text), soft_wrap=True)

    def end(self, decoding: Decoding, totals: Totals | None) -> None:
        if totals is None:
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        for name, value in _summary(decoding, totals):
            table.add_row(name, Text(value))
        self._console.rule(Text("summary", style="bold"), align="left")
        self._console.print(table)


def _chosen(sampling: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields lines about sampling: how tokens are chosen, and the model's settings that are ignored."""
    drawn = {name: value for name, value in sampling.items() if name in ("temperature", "top_p", "seed")}
    own = sampling.get("from_generation_config", {})
    how = ", ".join(f"{name} {value}" for name, value in drawn.items()) if drawn["temperature"] else "greedy"
    yield "sampling", f"{how}; from the model's generation config: {parameters(own)}" if own else how
    if aside := sampling.get("set_aside"):
        yield (
            "ignored",
            "from the model's generation config: "
            + "; ".join(f"{name} ({why})" for name, why in aside.items()),
        )


def _summary(decoding: Decoding, totals: Totals) -> Iterator[tuple[str, str]]:
    """Yields the lines of the summary: the run's report, with the model and the sampling."""
    model, report = decoding.loaded.model, totals.report
    yield "model", f"{decoding.loaded.label}, {str(model.dtype).removeprefix('torch.')} on {model.device}"
    method, *others = summary(report.method, report.target_sparsity, report.counters)
    yield method
    yield from _chosen(decoding.sampling)
    if (lossless := decoding.plan.lossless) is not None:
        windows = f"windows of {lossless.window}" if lossless.window else "windows adapt to measured costs"
        yield "lossless", f"drafts by {decoding.draft}; {windows}"
    yield from others
