"""The tables and ratios in the docs are those of the CPU's result files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from regrow.bench.bench_result import Result
from scripts.cpu_tables import prompts, tables

HOME = Path(__file__).parents[2]


def test_the_tables_of_the_page_are_made_from_the_results() -> None:
    page = (HOME / "docs" / "performance.md").read_text()
    for table in tables(Result.load(HOME / "results" / "bench-vllm.json")).split("\n\n"):
        assert f"\n\n{table}\n\n" in page, (
            "run python scripts/cpu_tables.py results/bench-vllm.json, and put what it prints there"
        )

    table = prompts(Result.load(HOME / "results" / "bench-vllm-prompts.json"))
    assert f"\n\n{table}\n\n" in page, (
        "run python scripts/cpu_tables.py results/bench-vllm-prompts.json, and put what it prints there"
    )


def test_ratios_in_the_text_are_those_of_the_results() -> None:
    text = " ".join((HOME / "docs" / "status.md").read_text().split())
    result = Result.load(HOME / "results" / "bench-vllm.json")
    rows = sorted((row for row in result.rows if row.label == "bap"), key=lambda row: row.rows)
    assert " / ".join(f"{row.ratio.median:.2f}x" for row in rows) in text


def test_prompts_are_told_by_their_length() -> None:
    result = Result.load(HOME / "results" / "bench-vllm.json")
    dense = next(row for row in result.rows if row.label == "dense")
    lengths = [
        replace(dense, rows=2, prompt=length, ms={"prompt": seconds * 1e3})
        for length, seconds in ((512, 4.0), (4096, 64.0))
    ]
    *_, line = prompts(replace(result, rows=lengths)).splitlines()
    assert line == "| dense | 256 | 128 |"
