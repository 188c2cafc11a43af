"""The output of `regrow demo`: all runs on one prompt, problem by problem, then a table of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from regrow.bundled.problems import LABELS, Exercise
from regrow.cli.totals import Totals
from regrow.evaluation.demo import Run
from regrow.format import duration, percent, rate, ratio
from regrow.models import Loaded
from regrow.report import why_dense

RIGHT, WRONG, MISSING = "✓", "✗", "–"
_BEFORE = 12  # characters shown before the first difference to the dense line


def show(
    console: Console, loaded: Loaded, exercises: Sequence[Exercise], runs: Sequence[Run], start: int
) -> None:
    """Prints the runs. `runs[0]` is the dense one; `start` is the number of the first prompt."""
    chosen = _most_telling(runs)
    console.rule(
        Text(f"held-out prompt {start + chosen}, one of {len(exercises)} in the batch", style="bold"),
        align="left",
    )
    console.print(
        Text(
            "the one on which the runs differ most; a line is shown from where it leaves the dense one\n",
            style="dim",
        )
    )
    for row in range(len(exercises[chosen].problems)):
        _problem(console, exercises[chosen], [run.texts[chosen] for run in runs], runs, chosen, row)
    console.rule(
        Text(f"the whole batch: {len(exercises)} prompts, {runs[0].problems} problems", style="bold"),
        align="left",
    )
    console.print(_table(runs))
    for run in runs:
        if run.lossless:
            console.print(f"{run.label}: {_lossless(run, runs[0])}")
        if why := why_dense(run.report.method, run.report.target_sparsity, run.report.counters):
            console.print(Text(f"{run.label}: {why}", style="yellow"))
    console.print(Text(_caveat(loaded, runs), style="dim"))


def to_json(
    loaded: Loaded, exercises: Sequence[Exercise], runs: Sequence[Run], start: int
) -> Iterator[dict[str, Any]]:
    """Yields one JSON object per run, with all prompts and answers."""
    for run in runs:
        rows = zip(exercises, run.texts, run.marks, strict=True)
        prompts = [
            {
                "id": f"heldout-{start + i}",
                "prompt": e.prompt,
                "solution": e.solution,
                "text": text,
                "right": list(marks),
            }
            for i, (e, text, marks) in enumerate(rows)
        ]
        yield {
            "type": "run",
            "label": run.label,
            "model": loaded.name,
            "lossless": run.lossless,
            "same_answers_as_dense": run.same_answers(runs[0]),
            "right": run.right,
            "problems": run.problems,
            **Totals.of([run.report]).to_dict(),
            "prompts": prompts,
        }


def _most_telling(runs: Sequence[Run]) -> int:
    """Returns the index of the first prompt with the most marks that differ from the dense run's."""
    dense = runs[0]
    differing = [
        sum(a != b for run in runs[1:] for a, b in zip(run.marks[i], dense.marks[i], strict=True))
        for i in range(len(dense.marks))
    ]
    return differing.index(max(differing))


def _problem(
    console: Console, exercise: Exercise, texts: Sequence[str], runs: Sequence[Run], chosen: int, row: int
) -> None:
    problem, label = exercise.problems[row], LABELS[row]
    console.print(
        Text.assemble((f"{label} {problem.question}", "bold"), (f"   answer: {problem.answer}", "dim")),
        soft_wrap=True,
    )
    grid = Table.grid(padding=(0, 2), expand=True)
    for ratio_, width in ((None, 11), (None, 10), (1, None)):
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio_, min_width=width)
    lines = [_line(text, label) for text in texts]
    for run, line in zip(runs, lines, strict=True):
        grid.add_row(
            run.label, _mark(line, run.marks[chosen][row]), _chain(line, None if run is runs[0] else lines[0])
        )
    console.print(Padding(grid, (0, 0, 1, 2)))


def _line(text: str, label: str) -> str | None:
    """Returns the answer to the problem with this label, without the label. None if there is no answer."""
    return next(
        (line.removeprefix(f"{label} ") for line in text.splitlines() if line.startswith(f"{label} ")), None
    )


def _mark(line: str | None, right: bool) -> Text:
    if line is None or "=" not in line:
        return Text(f"{MISSING} none", style="red")
    given = line.rpartition("=")[2].strip()
    return Text(f"{RIGHT if right else WRONG} {given}", style="green" if right else "red")


def _chain(line: str | None, dense: str | None) -> Text:
    """Returns the text to show for an answer.

    If the dense answer is given, the text begins shortly before the first difference, which is coloured.
    """
    if line is None:
        return Text("no line with this label", style="dim")
    if line == dense:
        return Text("the same", style="dim")
    if dense is None:
        return Text(line)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(line, dense, strict=False)))
    begin = max(0, same - _BEFORE)
    return Text.assemble(("…" if begin else "", "dim"), (line[begin:same], "dim"), (line[same:], "yellow"))


def _table(runs: Sequence[Run]) -> Table:
    table = Table(
        "method", "target", "actual sparsity", "sparse steps", "problems right", "tokens/s", "to dense"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    base = runs[0].report.counters.decode_tokens_per_second
    for run in runs:
        report = run.report
        speed = report.counters.decode_tokens_per_second
        table.add_row(
            run.label,
            percent(report.target_sparsity),
            percent(report.actual_sparsity),
            percent(report.sparse_share),
            f"{run.right}/{run.problems} ({percent(run.right / run.problems)})",
            rate(speed),
            ratio(speed / base if speed and base else None),
        )
    return table


def _lossless(run: Run, dense: Run) -> str:
    """Returns how many answers are the dense ones, and what became of the drafts."""
    answers, same = len(run.tokens), run.same_answers(dense)
    few = f"{same} of {answers} answers, because rounding decides between almost equally likely tokens"
    share = "all" if same == answers else few
    counters = run.report.counters
    drafts = f"; {counters.drafts_kept} of {counters.drafted} drafts were kept" if counters.drafted else ""
    return f"same tokens as dense: {share}{drafts}"


def _caveat(loaded: Loaded, runs: Sequence[Run]) -> str:
    size, spent = (
        loaded.model.num_parameters() / 1e6,
        sum(run.report.prefill_seconds + run.report.decode_seconds for run in runs),
    )
    return (
        f"One run each, {duration(spent)} in all: an impression, not a benchmark. With {size:.1f} million "
        f"parameters on a {loaded.model.device.type.upper()}, the framework's overhead decides the speed, "
        "not the weights that are read: these ratios say nothing about large models. What there is to see is "
        "how the answers hold up at each sparsity."
    )
