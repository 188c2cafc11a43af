"""The tables in the docs are those of the GPU's result files, the method that lost included."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.gpu_tables import tables

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()


@pytest.mark.parametrize(
    "table",
    tables(),
    ids=[
        "speed on an H200",
        "steps on an H200",
        "speed on an H200 before",
        "steps on an H200 before",
        "speed on an H100",
        "steps on an H100",
        "kernels on an H100",
    ],
)
def test_a_table_of_the_page_is_made_from_the_results(table: str) -> None:
    assert f"\n\n{table}\n\n" in PAGE, (
        "run python scripts/gpu_tables.py, and put what it prints in docs/performance.md"
    )


def test_the_method_that_lost_is_shown_as_it_is() -> None:
    speed = tables()[4]
    (teal,) = (line for line in speed.splitlines() if line.startswith("| **TEAL"))
    assert teal == "| **TEAL, 50 %** | **0.92x** | **0.98x** | **0.94x** | **0.87x** | **0.60x** |"
    assert "| transformers' own loop | 0.17x | – | – | 0.14x | – |" in speed
