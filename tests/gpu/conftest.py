"""Under pytest, the checks run without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpu.interpreted import as_on_a_gpu


@pytest.fixture(autouse=True)
def _as_on_a_gpu() -> Iterator[None]:
    with as_on_a_gpu():
        yield
