"""The table and the figure of a comparison, from made-up results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from regrow.analysis.comparison_table import COLUMNS, ComparisonRow, cells, markdown, row
from regrow.analysis.plots import figure, tradeoff
from regrow.records import Grade, Graded, Mark
from samples import CONFIG, COUNTED, record

SVG = "{http://www.w3.org/2000/svg}"
# Counters of answers that end before the schedule prunes.
SHORT = {"decode_steps": 4, "sparse_steps": 0, "weights_kept": 100, "weights_dense": 100}


def _traced(kept: int = 60) -> dict[str, Any]:
    settings = {"params": {"init_steps": 64}}
    return {
        "settings": settings,
        "tokens": 9,
        "mean_kl": 0.25,
        "agreement": 0.5,
        "weights_kept": kept,
        "weights_dense": 100,
    }


def _row(
    label: str = "BAP",
    batch_size: int = 4,
    *,
    answers: bool = True,
    traces: dict[str, Any] | None = None,
    **counted: Any,
) -> ComparisonRow:
    config = replace(CONFIG, method="bap", params={"sparsity": 0.5, "init_steps": 64}, limit=2, batch_size=2)
    graded = Graded(
        (record(0, config, counters={**COUNTED, **counted}),), (Grade((Mark("add", True, True),)),) * 2, ()
    )
    return row(label, batch_size, 0.5, traces, graded if answers else None, None)


def _cells(made: ComparisonRow) -> dict[str, str]:
    return dict(zip((column.header for column in COLUMNS), cells(made), strict=True))


def test_a_divergence_stands_beside_the_sparsity_it_was_measured_at() -> None:
    found = _cells(_row(traces=_traced()))
    assert (found["actual sparsity"], found["KL to dense"], found["same top token"]) == (
        "40.0 %",
        "0.25",
        "50.0 %",
    )


@pytest.mark.parametrize(
    ("kept", "shown"), [(90, "0.25 (at 10.0 %)"), (30, "0.25 (at 70.0 %)"), (63, "0.25")]
)
def test_a_divergence_at_another_sparsity_than_the_answers_shows_its_own(kept: int, shown: str) -> None:
    assert _cells(_row(traces=_traced(kept)))["KL to dense"] == shown


@pytest.mark.parametrize("answers", [True, False])
def test_traces_that_were_all_dense_have_no_divergence(answers: bool) -> None:
    made = _row(traces=_traced(100), answers=answers)
    found = _cells(made)
    assert (found["KL to dense"], found["same top token"]) == ("–", "–")
    note = (
        "BAP at 50 %, batch 4: every step along the dense answers was dense, and there is no divergence to "
        "show: pruning begins after 64 of them"
    )
    assert note in markdown([made])


def test_answers_that_were_all_dense_say_why() -> None:
    made = _row(traces=_traced(), **SHORT)
    assert _cells(made)["KL to dense"] == "0.25 (at 40.0 %)"
    note = (
        "BAP at 50 %, batch 4: every decode step was dense: pruning begins after 64 of them (init_steps), "
        "and the longest answer has 5 tokens."
    )
    assert markdown([made]).endswith(f"\n\n{note}\n")


def test_the_dense_model_does_not_diverge_from_itself() -> None:
    made = replace(
        _row("dense", traces={**_traced(100), "mean_kl": 0.0, "agreement": 1.0}, weights_kept=100), target=0.0
    )
    assert (_cells(made)["KL to dense"], _cells(made)["same top token"]) == ("0", "100.0 %")
    assert "no divergence" not in markdown([made])


def _marks(path: Path) -> int:
    """Return the number of markers: `use` elements in groups that are clipped to their axes."""
    groups = ElementTree.parse(path).iter(f"{SVG}g")
    return sum(len(group.findall(f"{SVG}use")) for group in groups if group.get("clip-path"))


def test_a_figure_of_one_batch_size_has_a_mark_for_every_method(tmp_path: Path) -> None:
    empty, one, both = (tmp_path / f"{name}.svg" for name in ("empty", "one", "both"))
    rows = [_row("BAP", traces=_traced()), _row("GRIFFIN", traces=_traced())]
    figure([], empty, 0.5)
    figure(rows[:1], one, 0.5)
    figure(rows, both, 0.5)
    assert "BAP" in one.read_text()
    assert _marks(one) == 3
    assert _marks(both) == 6
    assert _marks(empty) == 0


def test_a_method_of_one_size_is_left_out_beside_lines(tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    figure(
        [
            _row(batch_size=4, traces=_traced()),
            _row(batch_size=8, traces=_traced()),
            _row("T_e 1", traces=_traced()),
        ],
        path,
        0.5,
    )
    assert _marks(path) == 6  # two points on each of three axes
    assert "T_e 1" not in path.read_text()


def test_a_tradeoff_has_a_marker_where_bytes_and_value_are_known(tmp_path: Path) -> None:
    path = tmp_path / "tradeoff.svg"
    dense = replace(_row("dense", traces=_traced(100)), target=0.0)
    tradeoff(
        [dense, _row("BAP", traces=_traced()), _row("not run", answers=False, traces=_traced())], path, 0.5
    )
    assert _marks(path) == 4  # dense and BAP, on both sides
    assert "not run" in path.read_text()
    tradeoff([_row("BAP", traces=_traced())], path, 0.5)  # without dense, nothing says what share it reads
    assert _marks(path) == 0


def test_a_figure_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    for draw in (figure, tradeoff):
        paths = tmp_path / "first.svg", tmp_path / "second.svg"
        for path in paths:
            draw([_row("BAP", traces=_traced())], path, 0.5)
        assert paths[0].read_bytes() == paths[1].read_bytes()
