"""Prints the Markdown tables of a CPU benchmark: `python scripts/cpu_tables.py results/bench-vllm.json`.

docs/performance.md holds these tables. If the benchmark has prompts of several lengths, the only table is
that of prefill speeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from regrow.bench.bench_result import BenchRow, Result
from regrow.table import Column, Table, markdown


def tables(result: Result) -> str:
    """Returns the table of decode speeds and the table of milliseconds by part, both by batch size."""
    sizes = sorted({row.rows for row in result.rows})
    labels = list(dict.fromkeys(row.label for row in result.rows))
    found = {(row.label, row.rows): row for row in result.rows}
    batches = [f"batch {size}" for size in sizes]
    speeds = [[label, *(_speed(found.get((label, size))) for size in sizes)] for label in labels]
    kinds = {
        (label, part): None
        for label in labels
        for row in result.rows
        if row.label == label
        for part in row.ms
    }
    parts = [
        [f"{label}: {part}", *(_ms(found.get((label, size)), part) for size in sizes)]
        for label, part in kinds
    ]
    return "\n\n".join(
        [_markdown(["tokens a second", *batches], speeds), _markdown(["milliseconds", *batches], parts)]
    )


def prompts(result: Result) -> str:
    """Returns the table of prefill speeds by prompt length."""
    lengths = sorted({row.prompt for row in result.rows})
    labels = list(dict.fromkeys(row.label for row in result.rows))
    found = {(row.label, row.prompt): row for row in result.rows}
    lines = [[label, *(_prompt_speed(found.get((label, length))) for length in lengths)] for label in labels]
    return _markdown(["prompt tokens a second", *(f"{length} tokens" for length in lengths)], lines)


def _markdown(headers: list[str], rows: list[list[str]]) -> str:
    return markdown(Table.of([Column(header) for header in headers], rows))


def _prompt_speed(row: BenchRow | None) -> str:
    return "–" if row is None else f"{1e3 * row.rows * row.prompt / row.ms['prompt']:.0f}"


def _speed(row: BenchRow | None) -> str:
    if row is None:
        return "–"
    bound = f"; at most {row.bound:.2f}x" if row.bound > 1 else ""
    ratio = (
        ""
        if row.ratio.low == row.ratio.high == 1
        else f" ({row.ratio.median:.2f}x; {row.ratio.low:.2f} – {row.ratio.high:.2f}{bound})"
    )
    return f"{row.tokens_per_second.median:.1f}{ratio}"


def _ms(row: BenchRow | None, part: str) -> str:
    return "–" if row is None or part not in row.ms else f"{row.ms[part]:.1f}"


if __name__ == "__main__":
    loaded = Result.load(Path(sys.argv[1]))
    print(prompts(loaded) if len({row.prompt for row in loaded.rows}) > 1 else tables(loaded))
