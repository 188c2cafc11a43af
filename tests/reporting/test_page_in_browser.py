"""The page of a report in Chromium: on a desktop and a phone, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from regrow.reporting.page import page as report_page
from regrow.reporting.report_content import ReportContent

CHROMIUM: Final = Path("/usr/bin/chromium")
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = 1280, 390  # pixels
Scheme = Literal["light", "dark"]

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}; apt-get install chromium brings it"
)

# The colour of each text, and that of the nearest ancestor that paints a background.
TEXTS: Final = """() => [...document.querySelectorAll('h1, h2, p, a, th, td, figcaption, summary, svg text')]
  .filter(element => element.textContent.trim() && element.getClientRects().length)
  .map(element => {
    const inside = element.closest('svg') ? 'fill' : 'color';
    let holder = element;
    while (getComputedStyle(holder).backgroundColor === 'rgba(0, 0, 0, 0)' && holder.parentElement)
      holder = holder.parentElement;
    return [element.textContent.trim(), getComputedStyle(element)[inside],
      getComputedStyle(holder).backgroundColor];
  })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


class _Shown:
    """The report in a browser, with what the browser complained of and asked for."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: Scheme) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


@pytest.fixture(scope="module")
def path(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("report") / "report.html"
    written.write_text(report_page(content))
    return written


@pytest.fixture(
    scope="module", params=[(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")], ids=str
)
def shown(request: pytest.FixtureRequest, browser: Any, path: Path) -> Iterator[_Shown]:
    made = _Shown(browser, path, *request.param)
    yield made
    made.page.close()


def test_the_page_is_complete_and_asks_for_nothing(shown: _Shown) -> None:
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith("data:")] == [shown.page.url]


def test_charts_fit_and_their_parts_can_be_seen(shown: _Shown) -> None:
    width = shown.page.viewport_size["width"]
    charts = shown.page.query_selector_all("svg.chart")
    assert charts
    for chart in charts:
        box = chart.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 150
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        axes, legend = (
            chart.query_selector(f'[id$="-{part}_1"]').bounding_box() for part in ("patch", "legend")
        )
        assert legend["height"] > 0
        assert axes["height"] > 0


def test_legends_stand_below_the_axes(shown: _Shown) -> None:
    for chart in shown.page.query_selector_all("svg.chart"):
        bottom = max(
            spine.bounding_box()["y"] for spine in chart.query_selector_all('[id*="-matplotlib.axis_1"] text')
        )
        assert chart.query_selector('[id$="-legend_1"]').bounding_box()["y"] > bottom


def test_only_tables_scroll_sideways(shown: _Shown) -> None:
    wide = shown.page.evaluate("document.documentElement.scrollWidth")
    assert wide == shown.page.viewport_size["width"]
    boxes = shown.page.query_selector_all(".scroll")
    assert boxes
    assert all(box.bounding_box()["x"] + box.bounding_box()["width"] <= wide for box in boxes)


def test_texts_of_a_chart_are_legible_on_a_phone(shown: _Shown) -> None:
    heights = [text.bounding_box()["height"] for text in shown.page.query_selector_all("svg.chart text")]
    assert min(heights) >= 7.5  # pixels: a line of 8 points, at the scale of a chart on a phone


def test_every_text_has_contrast(shown: _Shown) -> None:
    found = shown.page.evaluate(TEXTS)
    assert len(found) > 100
    low = {(text, color, back) for text, color, back in found if _contrast(color, back) < 4.5}
    assert not low


def test_light_and_dark_differ(browser: Any, path: Path) -> None:
    looks = []
    for scheme in ("light", "dark"):
        made = _Shown(browser, path, DESKTOP, scheme)
        texts = {text: (color, back) for text, color, back in made.page.evaluate(TEXTS)}
        looks.append((texts["Accuracy"], texts["batch size"]))
        made.page.close()
    for light, dark in zip(*looks, strict=True):
        assert _luminance(light[0]) < _luminance(light[1])
        assert _luminance(dark[0]) > _luminance(dark[1])


def _luminance(color: str) -> float:
    """Relative luminance of WCAG 2 for a computed colour without transparency."""
    parts = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", color)
    assert parts, color
    shares = [int(part) / 255 for part in parts.groups()]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)
