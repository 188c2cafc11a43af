from __future__ import annotations

import json
from dataclasses import replace

from regrow.analysis.summary import Summary, summarize
from regrow.analysis.tables import COLUMNS, markdown, to_json
from regrow.records import Grade, Graded, Mark
from regrow.run_config import RunConfig
from samples import CONFIG, COUNTED, record

HEADERS = [column.header for column in COLUMNS]


def _summary(config: RunConfig = CONFIG, missing: tuple[int, ...] = (), **changes: object) -> Summary:
    grades = (
        Grade((Mark("add", True, True), Mark("sort", False, False))),
        Grade((Mark("add", True, True),)),
        Grade((Mark("add", False, False),)),
    )
    return summarize(Graded((record(0, config, **changes), record(1, config)), grades, missing))


def _rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_a_row_shows_every_number() -> None:
    rows = _rows(markdown([_summary()]))
    assert rows[0] == HEADERS
    assert dict(zip(HEADERS, rows[2], strict=True)) == {
        "method": "griffin",
        "parameters": "sparsity=0.5, skip_layers=0",
        "batch": "2",
        "problems right": "2/4 (50.0 %)",
        "95 % interval": "15.0 % to 85.0 %",
        "prompts fully right": "1/3 (33.3 %)",
        "sparse steps": "75.0 %",
        "actual sparsity": "40.0 %",
        "MB/token": "0.0002",
        "FFN MB/token": "0.0001333",
        "refresh MB/token": "1.333e-05",
        "FFN MB/step": "0.00025",
        "median tokens": "5",
        "90th percentile": "5",
        "at length cap": "0/3 (0.0 %)",
        "decode tokens/s": "3.0",
    }


def test_accuracy_by_family_has_a_column_for_each_family_met() -> None:
    rows = _rows(markdown([_summary()]))
    assert rows[3] == ["method", "parameters", "batch", "add", "sort"]
    assert rows[5][3:] == ["2/3 (66.7 %)", "0/1 (0.0 %)"]


def test_runs_of_one_setting_share_a_table_and_others_get_their_own() -> None:
    dense = replace(CONFIG, method="dense", params={}, skip_layers=())
    text = markdown([_summary(), _summary(dense), _summary(replace(CONFIG, max_new_tokens=16))])
    assert text.count("### ") == 2
    assert [row[:2] for row in _rows(text)[2:4]] == [
        ["griffin", "sparsity=0.5, skip_layers=0"],
        ["dense", "–"],
    ]
    assert "at most 16 new tokens" in text


def test_what_spoils_a_comparison_is_said() -> None:
    text = markdown([_summary(), _summary(missing=(1,)), _summary(versions={"torch": "2.12"})])
    assert "Row 2 is incomplete: 1 of 2 batches are missing." in text
    assert "Row 3 was made with 2 different sets of versions." in text
    assert "Row 1 " not in text


def test_names_cannot_break_a_table() -> None:
    text = markdown([_summary(replace(CONFIG, method="a|b\nc"))])
    assert "| a\\|b c |" in text
    assert len({len(line.replace("\\|", "").split("|")) for line in text.splitlines()[2:5]}) == 1


def test_a_rate_of_nothing_is_a_dash() -> None:
    none = {
        **COUNTED,
        "decode_steps": 0,
        "sparse_steps": 0,
        "weights_kept": 0,
        "weights_dense": 0,
        "decode_seconds": 0.0,
    }
    graded = Graded(
        (record(0, tokens=((2,), (2,)), counters=none),), (Grade((Mark("add", True, True),)),) * 2, (1,)
    )
    row = dict(zip(HEADERS, _rows(markdown([summarize(graded)]))[2], strict=True))
    assert [row[name] for name in ("sparse steps", "actual sparsity", "FFN MB/step", "decode tokens/s")] == [
        "–"
    ] * 4


def test_json_holds_counts_intervals_and_the_configuration() -> None:
    (summary,) = json.loads(to_json([_summary()]))
    assert summary["key"] == CONFIG.key
    assert summary["config"]["params"] == {"sparsity": 0.5}
    assert summary["problems"]["right"] == 2
    assert summary["problems"]["total"] == 4
    assert [round(end, 3) for end in summary["problems"]["interval_95"]] == [0.15, 0.85]
    assert summary["families"]["add"]["value"] == 2 / 3
    assert summary["sparse_share"] == 0.75
    assert summary["missing"] == []


def test_no_runs_make_no_tables() -> None:
    assert markdown([]) == "\n"
    assert json.loads(to_json([])) == []
