"""`regrow bench --lossless`: times lossless decoding with several drafts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
import typer
from rich.console import Console
from rich.table import Table

from regrow.bench.lossless.result import LosslessResult, LosslessRow
from regrow.bench.lossless.run import LosslessPlan, run
from regrow.cli.bar import Bar
from regrow.cli.bench_file import kept
from regrow.decoding.drafts.names import DRAFTS
from regrow.errors import UsageError
from regrow.format import NONE, percent, rate, ratio

# How often tokens of a draft were right on real text (results/lossless/real-model.json).
MEASURED = {"four-bit": 0.98, "ngram": 0.24, "mask": 0.92, "cascade": 0.97}


class Usual(NamedTuple):
    """What is measured unless options say otherwise."""

    drafts: tuple[str, ...]
    prompt: int
    new: int
    repeats: int


FULL = Usual(("four-bit", "ngram", "mask"), prompt=128, new=128, repeats=5)
# With --quick. It has to end within minutes on a CPU without matmuls of bfloat16, too.
QUICK = Usual(("four-bit", "ngram"), prompt=8, new=32, repeats=2)


def bench_lossless(
    shapes: Sequence[str],
    drafts: Sequence[str],
    batch_sizes: Sequence[int],
    prompt: int,
    new: int,
    repeats: int,
    dtype: str,
    device: torch.device,
    out: Path | None,
    *,
    json: bool,
) -> None:
    """Runs the benchmark and shows its results. `drafts` are names, or names with shares, as NAME=SHARE."""
    plan = LosslessPlan(shapes, _agreements(drafts), batch_sizes, prompt, new, repeats, dtype, device)

    with kept(out) as keep, Bar() as bar:
        run(plan, _Tables(bar, quiet=json), keep)


def _agreements(drafts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for given in drafts:
        name, equals, share = given.partition("=")
        if name not in DRAFTS:
            raise UsageError(f"--draft {name!r} is unknown; choose from {', '.join(DRAFTS)}")
        if not equals and name not in MEASURED:
            raise UsageError(f"how often {name} is right was not measured; give a share, as {name}=0.9")
        try:
            found[name] = float(share) if equals else MEASURED[name]
        except ValueError:
            found[name] = -1
        if not 0 <= found[name] <= 1:
            raise UsageError(f"--draft {given}: the share of right tokens is a number from 0 to 1")
    return found


@final
class _Tables:
    """Prints a table for every batch size, or JSON at the end if `quiet`."""

    def __init__(self, bar: Bar, *, quiet: bool) -> None:
        self._bar, self._quiet, self._console = bar, quiet, Console(highlight=False)
        self._on = ""

    def begin(self, result: LosslessResult) -> None:
        self._print(result.made_with["device"])

    def working(self, on: str, what: str) -> None:
        if on != self._on:
            self._on = on
            self._bar.begin(on, 1)
        self._bar.show(0, what)

    def rows(self, rows: Sequence[LosslessRow]) -> None:
        first = rows[0]
        table = Table(
            "",
            "tokens/s",
            "to dense",
            "low – high",
            "right",
            "kept",
            "tokens a pass",
            "draft",
            "checks of 1, 4, 16",
            title=f"{first.model}, batch {first.rows}, prompt {first.prompt} + {first.new} new tokens",
            title_justify="left",
            pad_edge=False,
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(
                row.label,
                rate(row.tokens_per_second.median),
                ratio(row.ratio.median),
                f"{row.ratio.low:.2f} – {row.ratio.high:.2f}",
                NONE if row.agreement is None else percent(row.agreement),
                NONE if row.kept_share is None else percent(row.kept_share),
                f"{row.tokens_per_pass:.2f}",
                *_costs(row.costs),
            )
        self._print(table)

    def end(self, result: LosslessResult) -> None:
        if self._quiet:
            typer.echo(result.to_json())
            return
        made = ", ".join(f"{name} {value}" for name, value in result.made_with.items() if name != "device")
        self._print(
            "A token of a draft is right with the chance in the column “right”, which is given. Draft and "
            f"checks are times of a drafted token and of checks of that many, in dense steps. {made}",
            style="dim",
        )

    def _print(self, what: Any, style: str | None = None) -> None:
        if not self._quiet:
            with self._bar.aside():
                self._console.print(what, style=style)


def _costs(costs: Any) -> tuple[str, str]:
    if not costs:
        return NONE, NONE
    checks = (costs["check"].get(str(window)) for window in (1, 4, 16))
    shown = (NONE if seconds is None else f"{seconds / costs['dense']:.2f}" for seconds in checks)
    return f"{costs['draft'] / costs['dense']:.2f}", ", ".join(shown)
