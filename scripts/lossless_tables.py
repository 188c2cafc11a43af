"""Prints the tables of docs/lossless.md: `python scripts/lossless_tables.py`.

They come from results/lossless: drafts against dense decoding, and lossy methods against dense decoding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regrow.bench.lossless.result import LosslessResult, LosslessRow
from regrow.format import NONE, percent
from regrow.table import Column, Table, markdown

RESULTS = Path(__file__).parents[1] / "results" / "lossless"
ANSWERS = ("bundled", "tinygsm8k")  # folders with whole answers
HEAD = (
    "batch", "draft", "tokens a second", "to dense", "same tokens as dense", "drafts kept", "tokens a pass",
    "a draft", "a check of 1 / 4 / 16",
)  # fmt: skip
RIGHT_HEAD = ("method", "weights", "problems right", "95 % interval", "FFN bytes a step")
LOSSY_HEAD = ("method", "weights", "FFN bytes a step", "batch 1", "batch 4", "batch 16")


def drafts(result: LosslessResult) -> str:
    """Returns the table of drafts, with costs in dense steps."""
    lines = [_cells(row) for row in sorted(result.rows, key=lambda row: row.rows)]
    return markdown(Table.of([Column(name) for name in HEAD], lines))


def lossy(found: dict[str, Any]) -> str:
    """Returns the table of lossy methods: KL from dense, and how often the likeliest token is the same."""
    kinds = dict.fromkeys((row["method"], row["weights"]) for row in found["rows"])
    lines = []
    for method, weights in kinds:
        rows = {
            row["batch"]: row for row in found["rows"] if (row["method"], row["weights"]) == (method, weights)
        }
        share = percent(sum(row["ffn_bytes"] for row in rows.values()) / len(rows), 0)
        cells = [_lossy_cell(rows.get(batch)) for batch in (1, 4, 16)]
        lines.append([method, weights, share, *cells])
    return markdown(Table.of([Column(name) for name in LOSSY_HEAD], lines))


def answers(folder: str) -> str:
    """Returns the table of whole answers whose results are in a folder."""
    return right(
        *(json.loads((RESULTS / folder / f"{name}.json").read_text()) for name in ("stored", "int4"))
    )


def right(stored: list[dict[str, Any]], int4: list[dict[str, Any]]) -> str:
    """Returns the table of whole answers of one model, from what `regrow table --json` prints.

    The bytes are those of the weights that take part, relative to dense decoding. A weight of 4 bits counts
    as 4.25 bits, with its share of a scale and an offset, and a stored one as 16.
    """
    lines = []
    for weights, runs, bits in (("stored", stored, 16), ("4 bits", int4, 4.25)):
        whole = next(run["ffn_bytes_per_step"] for run in runs if run["config"]["method"] == "dense")
        for run in sorted(runs, key=lambda run: run["config"]["method"] != "dense"):
            marks = run["problems"]
            low, high = marks["interval_95"]
            weighed = run["config"]["params"].get("weigh") == "down"
            lines.append([
                run["config"]["method"] + (", weighed" if weighed else ""),
                weights,
                f"{marks['right']} of {marks['total']} ({percent(marks['value'])})",
                f"{percent(low)} to {percent(high)}",
                percent(run["ffn_bytes_per_step"] / whole * bits / 16, 0),
            ])  # fmt: skip
    return markdown(Table.of([Column(name) for name in RIGHT_HEAD], lines))


def _lossy_cell(row: dict[str, Any] | None) -> str:
    return NONE if row is None else f"{row['kl']:.3f} / {percent(row['agreement'])}"


def _cells(row: LosslessRow) -> list[str]:
    ratio = row.ratio
    return [
        str(row.rows),
        row.label,
        f"{row.tokens_per_second.median:.1f}",
        NONE
        if not row.drafted and not row.costs
        else f"{ratio.median:.2f}x ({ratio.low:.2f} – {ratio.high:.2f})",
        percent(row.equal),
        NONE if row.kept_share is None else percent(row.kept_share),
        f"{row.tokens_per_pass:.2f}",
        *_costs(row),
    ]


def _costs(row: LosslessRow) -> list[str]:
    if not row.costs:
        return [NONE, NONE]
    dense, check = row.costs["dense"], row.costs["check"]
    shown = (f"{check[key] / dense:.2f}" if key in check else NONE for key in ("1", "4", "16"))
    return [f"{row.costs['draft'] / dense:.2f}", " / ".join(shown)]


if __name__ == "__main__":
    print(drafts(LosslessResult.load(RESULTS / "real-model.json")))
    print()
    print(lossy(json.loads((RESULTS / "lossy.json").read_text())))
    for folder in ANSWERS:
        print()
        print(answers(folder))
