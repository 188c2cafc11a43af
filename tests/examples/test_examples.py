"""Every example runs, and shows what it says."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

EXAMPLES = Path(__file__).parents[2] / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_each_example_is_listed_and_tested() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert {f"{name}.py" for name in names} == set(
        re.findall(r"\((\w+\.py)\)", (EXAMPLES / "README.md").read_text())
    )
    assert names == {"own_questions", "batching_service", "own_method", "rollouts"}


def test_own_questions_are_answered_dense_and_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    _load("own_questions").main(sparsity=0.0)
    counts = re.findall(r"^(\w+): (\d) of 6 right$", capsys.readouterr().out, re.MULTILINE)
    assert counts == [("dense", "5"), ("bap", "5")]  # nothing is pruned at sparsity 0


def test_questions_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "A rev hello", "answer": "olleh"}) + "\n")
    _load("own_questions").main(questions=path, method="griffin")
    assert "dense: 1 of 1 right" in capsys.readouterr().out


def test_a_method_of_ones_own_prunes(capsys: pytest.CaptureFixture[str]) -> None:
    _load("own_method").main(batch_size=2, max_new_tokens=60)
    shown = dict(
        re.findall(
            r"^(\w+) +\d+ of \d+ problems right, actual sparsity (.*)%$", capsys.readouterr().out, re.M
        )
    )
    assert shown["dense"] == "0.0"
    assert float(shown["latest"]) == float(shown["bap"]) > 30


def test_rollouts_go_on_after_the_weights_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, step = [], torch.optim.SGD.step

    def counted(optimiser: torch.optim.SGD, *arguments: Any) -> Any:
        gradients = [weight.grad for group in optimiser.param_groups for weight in group["params"]]
        steps.append(all(gradient is not None for gradient in gradients))
        return step(optimiser, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    _load("rollouts").main(steps=2, samples=2, max_new_tokens=24)
    shown = capsys.readouterr().out
    shares = re.findall(r"^step \d: mean reward [\d.]+, ([\d.]+)% sparse$", shown, re.MULTILINE)
    assert len(shares) == 2
    assert all(float(share) > 20 for share in shares)
    assert steps == [True, True]


def test_the_service_decodes_waiting_requests_as_one_batch() -> None:
    module = _load("batching_service")
    prompts = ["A add 517 208", "A rev hello", "A bin 10110"]
    with TestClient(module.service(str(module.model_path()), "dense", wait=2.0, largest=3)) as client:

        def ask(prompt: str) -> dict[str, object]:
            reply = client.post("/generate", json={"prompt": prompt})
            assert reply.status_code == 200
            return dict(reply.json())

        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(ask, prompts))
    assert [answer["batch_size"] for answer in answers] == [3, 3, 3]
    assert [str(answer["text"]).rsplit("=", 1)[1] for answer in answers] == ["725", "olleh", "22"]


def test_the_service_refuses_a_bad_request_and_answers_the_others() -> None:
    module = _load("batching_service")
    with TestClient(
        module.service(str(module.model_path()), "dense", wait=1.0, largest=2, limit=8)
    ) as client:
        with ThreadPoolExecutor(2) as pool:
            good, long = pool.map(
                lambda prompt: client.post("/generate", json={"prompt": prompt}), ["A add 1 2", "A " * 5000]
            )
        assert good.status_code == 200
        assert long.status_code == 422
        assert "leaves no room" in long.json()["detail"]
        assert client.post("/generate", json={"prompt": ""}).status_code == 422
        assert client.post("/generate", json={"prompt": "A add 1 2"}).status_code == 200
