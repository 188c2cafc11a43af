"""The CPU's numbers in the docs are those of the file."""

from __future__ import annotations

from pathlib import Path

from regrow.bench.result import Result
from scripts.cpu_tables import tables

HOME = Path(__file__).parents[2]


def test_the_tables_of_the_page_are_made_from_the_results() -> None:
    page = (HOME / "docs" / "performance.md").read_text()
    for table in tables(Result.load(HOME / "results" / "bench-vllm.json")).split("\n\n"):
        assert f"\n\n{table}\n\n" in page, "run python scripts/cpu_tables.py results/bench-vllm.json, and put what it prints there"
