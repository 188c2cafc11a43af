"""The page about serving says what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path

from scripts import serving_tables

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def test_tables_and_the_load_are_those_of_the_results() -> None:
    for name, shown in (
        ("join-policy", serving_tables.joins),
        ("join-agreement", serving_tables.agreements),
        ("speed", serving_tables.speeds),
        ("load", serving_tables.load),
    ):
        text = shown(json.loads((serving_tables.RESULTS / f"{name}.json").read_text()))
        assert " ".join(text.split()) in " ".join(PAGE.split()), "run python scripts/serving_tables.py"


def test_the_load_lost_nothing() -> None:
    found = json.loads((serving_tables.RESULTS / "load.json").read_text())
    exact, pruned = found["exact"], found["pruned"]
    assert exact["requests"] == pruned["requests"] == 200
    assert exact["survivors"] == exact["equal to themselves alone"]
    wanted = {"whole": "whole", "aborted": "aborted", "disconnected": "disconnected", "malformed": "refused"}
    for served in (exact, pruned):
        assert all(wanted[kind] == ended for kind, ended in (pair.split(" -> ") for pair in served["ended"]))
        assert served["metrics"]["requests"] == 0
    assert exact["metrics"]["sparse_steps"] == 0 < exact["metrics"]["decode_steps"]
    assert found["SIGTERM"] == {"running": 8, "exit": 0, "answers": {"whole": 8}}
