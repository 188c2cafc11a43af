"""A real server on loopback, started by `regrow serve`, with OpenAI clients."""

from __future__ import annotations

from pathlib import Path

import pytest

import load

# An engine starts in a quarter of a minute and compiles in one, and in several times that on a busy machine.
pytestmark = pytest.mark.timeout(900)


def test_a_server_under_load_loses_nothing(tmp_path: Path) -> None:
    found = load.run(24, 6.0, tmp_path)
    exact, pruned = found["sparsity 0"], found["pruned"]
    assert exact["survivors"] == exact["equal to themselves alone"] > 10
    wanted = {"whole": "whole", "aborted": "aborted", "disconnected": "disconnected", "malformed": "refused"}
    for served in (exact, pruned):
        pairs = (each.split(" -> ") for each in served["ended"])
        assert all(wanted[kind] == ended for kind, ended in pairs), served["ended"]
        assert served["metrics"]["requests"] == 0
    assert exact["metrics"]["sparse_steps"] == 0 < exact["metrics"]["decode_steps"]
    assert 0 < pruned["metrics"]["actual_sparsity"] < 0.5
    assert pruned["metrics"]["mask_selections"] > 1
    assert found["SIGTERM"] == {"exit": 0, "answers": {"whole": 8}}
