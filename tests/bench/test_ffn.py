"""`make bench-ffn` with small sizes: its last line has the keys of the committed result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regrow.bench import ffn

KEPT = json.loads((Path(__file__).parents[2] / "results" / "bench-ffn.json").read_text())


def test_its_last_line_holds_what_the_kept_result_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WIDTH": 32, "NEURONS": 64, "LAYERS": 2, "REPEATS": 2}.items():
        monkeypatch.setattr(ffn, name, value)
    ffn.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == set(KEPT)
    assert found["bound"] == KEPT["bound"]
    assert [set(result) for result in found["results"]] == [set(result) for result in KEPT["results"]]
    assert [(one["dtype"], one["rows"]) for one in found["results"]] == [
        (one["dtype"], one["rows"]) for one in KEPT["results"]
    ]
    assert all(ms > 0 for result in found["results"] for ms in result["ms"].values())
