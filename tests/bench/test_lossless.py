"""The benchmark of lossless decoding: what it replays, what it measures, and the tables made of it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import regrow
from regrow.analysis.chart import as_file, draw, styles
from regrow.bench import shapes
from regrow.bench.lossless.replayed import Replayed, repeats_tokens
from regrow.bench.lossless.result import LosslessResult, LosslessRow
from regrow.bench.lossless.rounds import Entrant, Prompts, equal_share, measure
from regrow.bench.lossless.run import LosslessPlan, entrants, run
from regrow.bench.shapes import Shape
from regrow.cli.bench_lossless import MEASURED
from regrow.errors import RegrowError, UsageError
from scripts import lossless_projection, lossless_tables

HOME = Path(__file__).parents[2]
TINY = Shape("tiny", "qwen2", 2, 64, 128, 4, 2, 16, 100, True)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)  # type: ignore[misc]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_likeliest_token_is_the_latest_one(tied: bool, dtype: torch.dtype) -> None:
    model = Shape("tiny", "qwen2", 2, 64, 128, 4, 2, 16, 100, tied).build(dtype, CPU)
    repeats_tokens(model)
    done = regrow.generate(model, [[5, 9, 7], [1, 2, 3]], max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert done.tokens == [[7] * 8, [3] * 8]


@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
def test_drafts_are_right_as_often_as_asked(agreement: float) -> None:
    """Of 600 drafts and more that are right with a chance of 0.6, the share differs by at most 0.08."""
    model = TINY.build(torch.float32, CPU)
    repeats_tokens(model)
    prompts = [Prompts(torch.tensor([[5, 9, 7], [1, 2, 4]]), None, 400)] * 2
    draft = Replayed(regrow.NGram(), agreement)
    compared = [Entrant("dense"), Entrant("ngram", regrow.Lossless(draft, 1), agreement=agreement)]
    rows, answers = measure("tiny", model, compared, prompts, lambda _: None, eos=False)
    dense, ours = rows
    assert (dense.drafted, dense.kept_share, dense.equal, dense.ratio.median) == (0, None, 1.0, 1.0)
    assert (dense.tokens, dense.tokens_per_pass) == (2 * 2 * 399, 1.0)
    assert ours.equal == 1.0
    assert ours.drafted >= 600
    assert ours.kept_share == pytest.approx(agreement, abs=0.08 if 0 < agreement < 1 else 1e-9)
    # A check of one draft gives the draft, if it is right, and one token more.
    assert ours.tokens_per_pass == pytest.approx(1 + agreement, abs=0.1)
    assert ours.tokens_per_second.median > 0
    assert [tuple(answer.shape) for answer in answers] == [(2, 400)] * 2


def test_costs_are_measured_before_the_first_timed_run() -> None:
    model = TINY.build(torch.float32, CPU)
    repeats_tokens(model)
    compared = entrants({"ngram": regrow.NGram(), "mask": regrow.Masked()}, {"ngram": 0.5, "mask": 0.9})
    assert [one.method.name for one in compared] == ["dense", "dense", "bap"]
    rows, _ = measure(
        "tiny", model, compared, [Prompts(torch.tensor([[5, 9, 7]]), None, 12)], lambda _: None, eos=False
    )
    assert rows[0].costs == {}
    for row in rows[1:]:
        assert regrow.Costs.from_dict(row.costs).dense > 0


def test_ended_rows_are_not_compared() -> None:
    ours, dense = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 9, 3, 4], [4, 5, 6, 7]])
    assert equal_share(ours, dense, [3, 2]) == 4 / 5
    assert equal_share(ours, dense[:, :2], [3, 2]) == 3 / 5


class Log:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin(self, result: LosslessResult) -> None:
        self.told.append("begin")

    def working(self, on: str, what: str) -> None:
        """Not recorded."""

    def rows(self, rows: Any) -> None:
        self.told.append([row.label for row in rows])

    def end(self, result: LosslessResult) -> None:
        self.told.append("end")


def test_results_are_kept_before_they_are_told_and_survive_json(tmp_path: Path) -> None:
    log, path = Log(), tmp_path / "result.json"
    plan = LosslessPlan(["tiny"], {"ngram": 0.5}, [1, 2], 4, 8, 1, "float32", CPU)
    result = run(plan, log, lambda found: log.told.append(len(found.rows)))
    assert log.told == ["begin", 2, ["dense", "ngram"], 4, ["dense", "ngram"], "end"]
    path.write_text(result.to_json())
    assert LosslessResult.load(path) == result


@pytest.mark.parametrize("text", ["", "{}", '{"lossless": {"rows": [{}]}}', "[]"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(RegrowError, match="is not a result of `regrow bench --lossless`"):
        LosslessResult.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        LosslessResult.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"shapes": ["x"]}, "shape"), ({"agreements": {"x": 0.5}}, "draft"), ({"dtype": "x"}, "dtype")],
)
def test_impossible_plans_are_refused(change: dict[str, Any], said: str) -> None:
    plan = partial(
        LosslessPlan,
        shapes=["tiny"],
        agreements={},
        batch_sizes=[1],
        prompt=4,
        new=8,
        repeats=1,
        dtype="float32",
        device=CPU,
    )
    with pytest.raises(UsageError, match=said):
        plan(**change)


def test_the_tables_of_the_page_are_made_from_the_results() -> None:
    page, results = (HOME / "docs" / "lossless.md").read_text(), lossless_tables.RESULTS
    tables = [
        lossless_tables.drafts(LosslessResult.load(results / "real-model.json")),
        lossless_tables.lossy(json.loads((results / "lossy.json").read_text())),
        *map(lossless_tables.answers, lossless_tables.ANSWERS),
    ]
    for table in tables:
        assert f"\n\n{table}\n" in page, "run python scripts/lossless_tables.py, and put what it prints there"


def test_ratios_in_the_text_are_those_of_the_results() -> None:
    rows = LosslessResult.load(lossless_tables.RESULTS / "real-model.json").rows
    ratios = " / ".join(f"{row.ratio.median:.2f}x" for row in rows if row.label == "four-bit")
    for page in ("README.md", "docs/status.md"):
        assert ratios in " ".join((HOME / page).read_text().split()), page


def explained(row: LosslessRow) -> float:
    """Return the chance of right drafts that explains the share that was kept, at the mean window."""
    window = max(1, round(row.drafted / row.rows / row.passes))
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        share = sum(middle**number for number in range(1, window + 1)) / window
        low, high = (middle, high) if share < (row.kept_share or 0) else (low, middle)
    return low


def test_replayed_drafts_agree_as_often_as_on_real_text() -> None:
    rows = LosslessResult.load(lossless_tables.RESULTS / "real-model.json").rows
    seen = {row.label: explained(row) for row in rows if row.rows == 1 and row.drafted}
    assert {label: round(agreement, 2) for label, agreement in seen.items()} == MEASURED
    assert MEASURED["four-bit"] == lossless_projection.AGREEMENT


def test_the_projection_is_drawn_from_the_results() -> None:
    chart = lossless_projection.chart()
    drawn = as_file(draw(chart, styles([line.label for line in chart.lines])))
    assert (HOME / "docs" / "images" / f"{chart.name}.svg").read_bytes() == drawn, (
        "run python scripts/lossless_projection.py"
    )
    assert "Projection" in chart.title
