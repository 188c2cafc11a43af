"""Takes the picture of a report that the README shows: `python scripts/report_picture.py`.

The report is made before: `regrow report results --out build/report`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

REPORT, PICTURE = Path("build/report/report.html"), Path("docs/images/report.png")
SECTIONS = "batch-size", "sparsity"  # from the first to the last
WIDTH = 1000  # pixels


def take(report: Path, picture: Path) -> None:
    """Writes the picture of the sections, light, as Debian's Chromium shows them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        first, last = (page.locator(f"#{name}").bounding_box() for name in SECTIONS)
        if first is None or last is None:
            sys.exit(f"{report} does not have the sections {', '.join(SECTIONS)}")
        height = last["y"] + last["height"] - first["y"]
        page.screenshot(
            path=picture, full_page=True, clip={"x": 0, "y": first["y"], "width": WIDTH, "height": height}
        )
        browser.close()


if __name__ == "__main__":
    take(REPORT, PICTURE)
