"""Prints the tables of docs/serving.md, from results/serving: `python scripts/serving_tables.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regrow.format import percent
from regrow.table import Column, Table, markdown

RESULTS = Path(__file__).parents[1] / "results" / "serving"
JOIN_HEAD = ("steps from one arrival to the next", "`join`", "{measure}", "sparse steps", "actual sparsity")
SPEED_HEAD = (
    "requests at a time",
    "vLLM",
    "with Regrow",
    "ratio",
    "dense",
    "sparse",
    "observed",
    "selection",
)


def joins(found: dict[str, Any]) -> str:
    """Returns the table of the policies for requests that join, by problems that were answered right."""
    return _policies(found, "problems right", "right", "problems")


def agreements(found: dict[str, Any]) -> str:
    """Returns the same table by tokens that the dense model would have chosen."""
    return _policies(found, "tokens as dense", "agree", "tokens")


def _policies(found: dict[str, Any], head: str, part: str, whole: str) -> str:
    lines = [
        [
            str(row["steps_between"]),
            row["settings"].get("join", "dense model"),
            f"{row[part]} of {row[whole]} ({percent(row[part] / row[whole])})",
            percent(row["sparse_share"]),
            percent(row["actual_sparsity"]),
        ]
        for row in found["rows"]
    ]
    return markdown(Table.of([Column(name.format(measure=head)) for name in JOIN_HEAD], lines))


def speeds(found: dict[str, Any]) -> str:
    """Returns the table of speeds in tokens a second, and of milliseconds by kind of step."""
    lines = []
    for row in found["rows"]:
        speed, ratio, times = row["tokens_per_second"], row["ratio"], row["milliseconds"]
        lines.append(
            [
                str(row["concurrency"]),
                f"{speed['vllm']:.1f}",
                f"{speed['regrow']:.1f}",
                f"{ratio['median']:.2f}x ({ratio['low']:.2f} – {ratio['high']:.2f})",
                *(f"{times[kind]:.0f}" for kind in SPEED_HEAD[4:]),
            ]
        )
    return markdown(Table.of([Column(name) for name in SPEED_HEAD], lines))


def load(found: dict[str, Any]) -> str:
    """Returns a sentence about the load test."""
    exact, pruned, stopped = found["exact"], found["pruned"], found["SIGTERM"]
    share = percent(pruned["metrics"]["sparse_step_share"])
    return (
        f"of {exact['requests']} requests, all {exact['survivors']} that were neither aborted, "
        "disconnected nor malformed "
        "equal themselves alone, where every pass ran through Regrow's FFNs and none was sparse "
        f"({exact['equal to themselves alone']} of {exact['survivors']}). With a mask, {share} of the steps "
        f"were sparse. No slot was left behind, and after SIGTERM the {stopped['running']} running requests "
        "were answered before the server ended."
    )


if __name__ == "__main__":
    print(joins(json.loads((RESULTS / "join-policy.json").read_text())))
    print()
    print(agreements(json.loads((RESULTS / "join-agreement.json").read_text())))
    print()
    print(speeds(json.loads((RESULTS / "speed.json").read_text())))
    print()
    print(load(json.loads((RESULTS / "load.json").read_text())))
