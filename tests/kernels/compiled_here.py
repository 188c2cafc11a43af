"""Skips tests on machines that cannot compile the CPU kernels."""

from __future__ import annotations

import pytest

from regrow.kernels.cpu_library import library

COMPILED = pytest.mark.skipif(library() is None, reason="no C++ compiler to compile the CPU kernels with")
