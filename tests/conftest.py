"""Settings for all tests: no hub, one thread, the same property-based examples in every run; a real model."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# transformers and torch read these variables when they are imported, so a fixture would be too late.
# Processes that tests start inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
# The models are tiny. On a busy machine, threads that wait for each other only slow the tests down.
os.environ["OMP_NUM_THREADS"] = "1"
# Triton kernels run on the CPU, in Triton's interpreter. The variable must be set before Triton is imported.
os.environ["TRITON_INTERPRET"] = "1"

# Thousands of modules and models stay alive, and Python would walk over them again and again.
gc.set_threshold(100_000)

# No limits that depend on how busy the machine is: no deadline per example and no check for slow generation.
# The limit of pytest-timeout stays.
settings.register_profile(
    "deterministic", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True, scope="session")
def _repeated_work() -> None:
    """Does once in a process what tests would do thousands of times."""
    from once import compare_equal_models_once, find_functions_of_triton_once

    compare_equal_models_once()
    find_functions_of_triton_once()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, a real model whose weights went through 4 bits once."""
    from real_model import fetched

    return fetched("smollm2-135m")
