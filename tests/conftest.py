"""What every test runs under: no network, one thread, the same property-based examples on every run."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Read when transformers and torch are imported, hence here and not in a fixture; processes that tests start inherit both.
os.environ["HF_HUB_OFFLINE"] = "1"
# The models of the tests are tiny: on a busy machine, threads that wait for each other only slow the tests down.
os.environ["OMP_NUM_THREADS"] = "1"
# Triton kernels run on the CPU, in its interpreter; it has to be said before Triton is imported.
os.environ["TRITON_INTERPRET"] = "1"

# Nothing that depends on the clock of a busy machine: no deadline an example, no check on slow generation (pytest-timeout's limit stays).
settings.register_profile(
    "deterministic", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("deterministic")
