"""The numbers in the tables and charts of a report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from regrow.analysis.chart import Chart, Point
from regrow.reporting.document import document, figures
from regrow.reporting.page import page
from regrow.reporting.report_content import ReportContent
from regrow.reporting.section import Section
from regrow.table import Table
from report_runs import config, write_bench, write_run

SECTIONS = (
    "accuracy",
    "batch-size",
    "sparsity",
    "throughput",
    "trade-off",
    "ablation",
    "bytes",
    "divergence",
    "lengths",
    "paper",
)


def _section(content: ReportContent, name: str) -> Section:
    return next(section for section in content.sections if section.name == name)


def _table(content: ReportContent, name: str, title: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Returns the cells of a table by the texts of its columns that are aligned left or say the sparsity."""
    table = next(
        part for part in _section(content, name).parts if isinstance(part, Table) and part.title == title
    )
    who = [
        n
        for n, column in enumerate(table.columns)
        if not column.right or column.header in ("sparsity", "batch")
    ]
    return {
        tuple(row[n] for n in who): {table.headers[n]: text for n, text in enumerate(row) if n not in who}
        for row in table.rows
    }


def _charts(content: ReportContent, name: str) -> list[Chart]:
    return [part for part in _section(content, name).parts if isinstance(part, Chart)]


def _points(chart: Chart, label: str) -> tuple[Point, ...]:
    return next(line.points for line in chart.lines if line.label == label)


def test_every_section_is_there_and_filled(content: ReportContent) -> None:
    assert tuple(section.name for section in content.sections) == SECTIONS
    assert [section.name for section in content.sections if not section.parts] == []


def test_accuracy_has_score_interval_and_difference_from_dense(content: ReportContent) -> None:
    cells = _table(content, "accuracy", "tiny: math500")
    assert cells["dense", "0 %"]["batch 2"] == "100.0 %\n(51.0 to 100.0)"
    assert cells["BAP", "50 %"]["batch 2"].split("\n")[0] == "75.0 %"
    assert cells["BAP", "50 %"]["batch 2"].split("\n")[2].startswith("−25.0, p = ")
    assert cells["BAP, T_init 0", "50 %"]["batch 2"] == "–"


def test_the_overview_has_a_column_for_each_task_and_their_mean(content: ReportContent) -> None:
    cells = _table(content, "accuracy", "tiny: all tasks")
    assert set(cells["BAP", "50 %", "2"]) == {"math500", "amc23", "mean, strict"}
    assert cells["BAP", "50 %", "2"]["mean, strict"] == "75.0 %"
    assert cells["BAP, T_init 0", "50 %", "4"]["mean, strict"] == "–"  # one of the tasks lacks it


def test_the_lenient_score_stands_beside_the_strict_one_where_they_differ(content: ReportContent) -> None:
    from regrow.reporting.accuracy import accuracy

    group = next(group for group in content.groups if group.name == "math500")
    (bap,) = (row for row in group.rows if (row.label, row.target, row.batch_size) == ("BAP", 0.5, 2))
    assert bap.summary is not None
    lenient = replace(bap.summary, paper=replace(bap.summary.paper, right=4))
    section = accuracy([replace(group, rows=(replace(bap, summary=lenient),))])
    (table,) = section.parts
    assert isinstance(table, Table)
    assert "lenient 100.0 %" in table.rows[0][2]


def test_accuracy_against_batch_size_has_a_chart_of_the_mean_first(content: ReportContent) -> None:
    charts = _charts(content, "batch-size")
    assert [chart.title for chart in charts if "50 %" in chart.title] == [
        "tiny: mean over the tasks, 50 % target sparsity",
        "tiny: amc23, 50 % target sparsity",
        "tiny: math500, 50 % target sparsity",
    ]
    mean, own = charts[0], next(chart for chart in charts if "math500" in chart.title)
    assert [point.y for point in _points(mean, "BAP")] == [75.0, 75.0]
    (narrow, wide) = (_points(chart, "BAP")[0].across for chart in (mean, own))
    assert narrow is not None
    assert wide is not None
    assert narrow[1] - narrow[0] == pytest.approx((wide[1] - wide[0]) / 2**0.5)
    assert "BAP, T_init 0" not in {line.label for line in mean.lines}  # it has one batch size


def test_sparsity_has_accuracy_and_actual_sparsity(content: ReportContent) -> None:
    right, actual = [
        chart for chart in _charts(content, "sparsity") if chart.title == "tiny: math500, batch 4"
    ]
    assert [(point.x, point.y) for point in _points(right, "GRIFFIN")] == [(30, 25), (50, 25)]
    assert right.level == 100
    assert [round(point.y, 6) for point in _points(actual, "GRIFFIN")] == [40, 40]


def test_throughput_has_speeds_and_ratios(content: ReportContent) -> None:
    (chart,) = _charts(content, "throughput")
    assert [(point.x, point.y) for point in _points(chart, "BAP")] == [(0, 1.5), (1, 1.5)]
    cells = _table(content, "throughput", "qwen-7b on a GPU: prompt of 8, 16 new tokens")
    assert cells[("BAP",)]["batch 4"] == "600 tokens/s\n1.50× (1.35 to 1.65)"
    assert cells[("dense",)]["batch 4"] == "400 tokens/s"


def test_the_tradeoff_joins_speed_and_accuracy_and_names_both_models(content: ReportContent) -> None:
    chart = next(chart for chart in _charts(content, "trade-off") if "math500" in chart.title)
    assert [(point.x, point.y) for point in _points(chart, "GRIFFIN")] == [(2.0, 25.0), (2.0, 25.0)]
    assert [point.size for point in _points(chart, "GRIFFIN")] == [0, 1]
    assert chart.title == "accuracy of tiny: math500; speed of qwen-7b on a GPU: prompt of 8, 16 new tokens"
    assert "not measured on the same model" in chart.note
    assert "random weights" in chart.note


def test_a_benchmark_of_another_or_an_unknown_sparsity_has_no_tradeoff(tmp_path: Path) -> None:
    write_run(tmp_path / "dense.jsonl", config())
    write_run(tmp_path / "bap.jsonl", config("bap", sparsity=0.3))
    write_bench(tmp_path / "bench.json")
    assert _section(ReportContent.of([tmp_path]), "trade-off").parts == ()
    write_run(tmp_path / "bap.jsonl", config("bap"))
    assert _section(ReportContent.of([tmp_path]), "trade-off").parts
    write_bench(tmp_path / "bench.json", settings={})
    assert _section(ReportContent.of([tmp_path]), "trade-off").parts == ()


def test_the_ablation_has_a_row_for_every_setting_of_bap(content: ReportContent) -> None:
    (table,) = [part for part in _section(content, "ablation").parts if isinstance(part, Table)]
    rows = [dict(zip(table.headers, row, strict=True)) for row in table.rows]
    assert [(row["T_init"], row["problems right"], row["KL"]) for row in rows] == [
        ("64", "75.0 %", "0.25"),
        ("0", "50.0 %", "–"),
    ]
    assert {(row["sparsity"], row["batch"], row["aggregation"], row["memory"]) for row in rows} == {
        ("50 %", "4", "max", "max")
    }


def test_bytes_are_in_percent_of_dense_at_the_same_batch_size(content: ReportContent) -> None:
    chart = next(chart for chart in _charts(content, "bytes") if chart.title == "tiny: math500, batch 4")
    assert [(point.x, point.y) for point in _points(chart, "BAP")] == [(60, 75)]
    assert [point.x for point in _points(chart, "dense")] == [100]


def test_divergence_and_lengths(content: ReportContent) -> None:
    assert _table(content, "divergence", "tiny: math500")["BAP", "50 %"]["batch 4"] == "0.25\n75.0 %"
    assert _table(content, "lengths", "tiny: math500")["BAP", "50 %"]["batch 4"] == (
        "5, 90th: 5\n0.0 % at the limit"
    )


def test_the_paper_stands_beside_cells_that_both_have_and_names_both_models(content: ReportContent) -> None:
    cells = _table(content, "paper", "Accuracy")
    own = cells["math500", "BAP", "50 %", "4", "DeepSeek-R1-Distill-Qwen-7B", "tiny", "no"]
    assert (own["paper"], own["strict score here"].split("\n")[0]) == ("71.0 %", "75.0 %")
    assert ("math500", "BAP, T_init 0", "50 %", "4", "DeepSeek-R1-Distill-Qwen-7B", "tiny", "no") in cells
    # The paper's dense model ran at batch 8, and TEAL was not run here.
    assert {key[1] for key in cells} == {"BAP", "BAP, T_init 0", "GRIFFIN"}
    assert {key[3] for key in cells if key[1] == "GRIFFIN"} == {
        f"{size} (the paper: not stated)" for size in (2, 4)
    }
    assert {key[2] for key in cells} == {"50 %"}


def test_a_model_of_the_papers_name_is_said_to_be_so(tmp_path: Path) -> None:
    name = "DeepSeek-R1-Distill-Qwen-7B"
    write_run(tmp_path / "bap.jsonl", replace(config("bap", 4), model=f"deepseek-ai/{name}"))
    cells = _table(ReportContent.of([tmp_path]), "paper", "Accuracy")
    assert {key[4]: key[-1] for key in cells} == {
        name: "yes, by name",
        "DeepSeek-R1-Distill-Llama-8B": "no",
    }


@pytest.mark.parametrize(
    ("model", "note"), [("models/DeepSeek-R1-Distill-Qwen-7B", ""), ("qwen-7b", ", random weights")]
)
def test_speeds_of_the_papers_own_model_and_of_its_shape_stand_beside_the_papers(
    tmp_path: Path, model: str, note: str
) -> None:
    write_bench(tmp_path / "bench.json", model=model)
    (section,) = (one for one in ReportContent.of([tmp_path]).sections if one.name == "paper")
    (table,) = section.parts
    assert isinstance(table, Table)
    assert {(row[0], row[1], row[5].split("\n")[0]) for row in table.rows} == {
        (method, "4", model + note) for method in ("dense", "GRIFFIN", "BAP")
    }


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    write_bench(tmp_path / "bench.json", model="tiny")
    speeds = ReportContent.of([tmp_path])
    assert {section.name for section in speeds.sections if section.parts} == {"throughput"}
    text = document(speeds)
    for section in speeds.sections:
        if not section.parts:
            assert f"## {section.title}\n\n{section.absent}\n" in text
            assert escape(section.absent) in page(speeds)


def test_page_and_document_hold_every_chart_and_table_once(content: ReportContent) -> None:
    text, written, drawn = page(content), document(content), dict(figures(content))
    tables = [part for section in content.sections for part in section.parts if isinstance(part, Table)]
    charts = [part for section in content.sections for part in section.parts if isinstance(part, Chart)]
    assert text.count("<svg ") == len(drawn) == len(charts)
    assert text.count("<table>") == len(tables) + 1
    assert sum(line.startswith("| ---") for line in written.splitlines()) == len(tables) + 1
    assert set(re.findall(r"\]\(([^)]+\.svg)\)", written)) == set(drawn)
    assert {line.label for chart in charts for line in chart.lines} <= set(content.styles)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_page_asks_for_nothing_from_elsewhere(content: ReportContent) -> None:
    text = page(content)
    assert "<script" not in text
    assert set(re.findall(r'(?:src|href)="([^"#]*)"', text)) == {"data:,"}
    assert not re.search(r"url\((?!#)|@import", text)


def test_equal_results_give_equal_reports(content: ReportContent) -> None:
    one, other = (replace(content, sections=content.sections[:2]) for _ in range(2))
    assert page(one) == page(other)
    assert document(one) == document(other)


def test_json_holds_the_numbers(content: ReportContent) -> None:
    found = json.loads(content.to_json())
    assert set(found) == {"groups", "benches", "left_out"}
    group = next(group for group in found["groups"] if group["task"] == "math500")
    row = next(
        row for row in group["rows"] if (row["label"], row["target"], row["batch_size"]) == ("BAP", 0.5, 4)
    )
    assert row["summary"]["problems"]["value"] == 0.75
    assert row["against_dense"]["difference"] == -0.25
    assert row["divergence"]["mean_kl"] == 0.25
    assert found["benches"][0]["rows"][0]["model"] == "qwen-7b"
