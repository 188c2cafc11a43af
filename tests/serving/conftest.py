"""These tests run where vLLM is installed: `make test-vllm`. Elsewhere none of them is collected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from engines import MODEL, Drive, Driven, Driver

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, so that no process waits for another at the end."""
    items.sort(key=lambda item: item.path.stem != "test_server")


@pytest.fixture(autouse=True, scope="session")
def _repeated_work() -> None:
    """Nothing here repeats what other tests repeat."""


@pytest.fixture(scope="session")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    """Yield a function that runs arrivals through an engine, once for equal arguments."""
    done: dict[str, Driven] = {}
    driver = Driver(tmp_path_factory.mktemp("engines"))

    def run(arrivals: list[dict[str, Any]], settings: object = None, again: int = 0, **given: Any) -> Driven:
        aborts = given.pop("aborts", {})
        engine = {
            "model": str(MODEL), "dtype": "float32", "max_model_len": 256, "max_num_seqs": 8, "seed": 0,
            "enforce_eager": True, **given,
        }  # fmt: skip
        if settings is not None:
            engine["additional_config"] = {"regrow": settings}
        plan = {"engine": engine, "arrivals": arrivals, "aborts": aborts}
        key = json.dumps([plan, again], sort_keys=True)
        if key not in done:
            done[key] = driver(plan)
        return done[key]

    yield run
    driver.close()
