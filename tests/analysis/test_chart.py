"""Charts: what is drawn, and that it can stand in a light and a dark page beside others."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from regrow.analysis.chart import COLORS, Chart, Line, Point, as_file, draw, style, styles

SVG = "{http://www.w3.org/2000/svg}"
CHART = Chart(
    "a-chart",
    "Title <1>",
    "batch size",
    "right, %",
    (
        Line("dense", (Point(0, 97, (95, 98)), Point(1, 97, (95, 98)))),
        Line("BAP", (Point(0, 70, (66, 74)), Point(1, 76, (72, 80)))),
    ),
    ("1", "4"),
    level=50.0,
)
STYLES = styles(["dense", "BAP"])


def _luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#14171a"])
def test_colours_can_be_seen_on_light_and_dark_pages(page: str) -> None:
    assert min(_contrast(color, page) for color in COLORS) >= 3  # WCAG 2.2, 1.4.11


def test_equal_charts_give_equal_texts() -> None:
    assert draw(CHART, STYLES) == draw(CHART, STYLES)


def test_a_chart_is_one_element_without_what_a_page_must_not_have_twice() -> None:
    svg = draw(CHART, STYLES)
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == "Title <1>"
    assert all(part not in svg for part in ("<?xml", "<!DOCTYPE", "<style", "<metadata"))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids
    assert all(str(name).startswith("a-chart-") for name in ids)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert used
    assert used <= set(ids)


def test_text_is_text_in_the_colour_of_the_page() -> None:
    svg = draw(CHART, STYLES)
    texts = {"".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert {"batch size", "right, %", "1", "4", "dense", "BAP"} <= texts
    colors = set(re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{6})", svg))
    assert colors == {style(0)["color"], style(1)["color"]}
    assert "fill: currentColor" in svg


def test_every_point_has_a_marker_and_an_error_bar() -> None:
    without = replace(
        CHART,
        lines=tuple(
            Line(line.label, tuple(replace(p, across=None) for p in line.points)) for line in CHART.lines
        ),
    )
    bars = [draw(chart, STYLES).count("LineCollection") for chart in (CHART, without)]
    assert bars == [4, 0]


def test_a_label_has_the_same_style_wherever_it_stands() -> None:
    found = styles(["dense", "BAP", "dense", "TEAL"])
    assert found["TEAL"] == style(2)
    assert len({(one["color"], one["linestyle"], one["marker"]) for one in map(style, range(30))}) == 30


def test_a_file_brings_the_colour_of_its_text_for_light_and_dark() -> None:
    written = as_file(draw(CHART, STYLES)).decode()
    ElementTree.fromstring(written)
    assert "prefers-color-scheme:dark" in written
