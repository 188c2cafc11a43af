"""A real server on loopback, started by `regrow serve`, with OpenAI clients."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

import load

# An engine starts in a quarter of a minute and compiles in one, and in several times that on a busy machine.
pytestmark = pytest.mark.timeout(900)


def test_a_server_under_load_loses_nothing(tmp_path: Path) -> None:
    found = load.run(24, 6.0, tmp_path)
    exact, pruned = found["exact"], found["pruned"]
    assert exact["survivors"] == exact["equal to themselves alone"] > 10
    wanted = {"whole": "whole", "aborted": "aborted", "disconnected": "disconnected", "malformed": "refused"}
    for served in (exact, pruned):
        pairs = (each.split(" -> ") for each in served["ended"])
        assert all(wanted[kind] == ended for kind, ended in pairs), served["ended"]
        assert served["metrics"]["requests"] == 0
    assert exact["metrics"]["sparse_steps"] == 0 < exact["metrics"]["decode_steps"]
    assert 0 < pruned["metrics"]["actual_sparsity"] < 0.5
    assert pruned["metrics"]["mask_selections"] > 1
    assert found["SIGTERM"] == {"running": 8, "exit": 0, "answers": {"whole": 8}}
    assert "the scores of 16 requests take at most" in (tmp_path / "pruned.log").read_text()


def test_a_real_model_answers_a_question(smollm2: Path, tmp_path: Path) -> None:
    """In bfloat16, the format of its files."""
    method = ["--sparsity", "0.5", "--init-steps", "4", "--period", "8"]
    with load.serving(method, tmp_path / "log", smollm2, "auto") as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=load.SECONDS)
        question = {"role": "user", "content": "What is the capital of France?"}
        answer = client.chat.completions.create(
            model=client.models.list().data[0].id, messages=[question], max_tokens=48, temperature=0
        ).choices[0]
        assert answer.message.content.strip()
        assert answer.finish_reason in ("stop", "length")
        assert load.settled(address)["sparse_steps"] > 0
