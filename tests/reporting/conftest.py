from __future__ import annotations

from pathlib import Path

import pytest

from regrow.reporting.report_content import ReportContent
from report_runs import write_everything


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> ReportContent:
    """The content of a report in which every section has something to show."""
    folder: Path = tmp_path_factory.mktemp("results")
    write_everything(folder)
    return ReportContent.of([folder])
