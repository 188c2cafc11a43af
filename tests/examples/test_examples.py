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

import regrow

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


RESULT = re.compile(r"^(\w+): (\d) of (\d) right; (\d+) of (\d+) decode steps were sparse$", re.MULTILINE)


def test_own_questions_are_answered_dense_and_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    module = _load("own_questions")
    module.main(sparsity=0.0)
    dense, unpruned = RESULT.findall(capsys.readouterr().out)
    assert dense[:4] == ("dense", "5", "6", "0")
    assert unpruned == ("bap", *dense[1:])
    module.main(method="griffin")
    again, pruned = RESULT.findall(capsys.readouterr().out)
    assert again == dense
    assert pruned[0] == "griffin"
    assert pruned[3] == pruned[4] > "0"


@pytest.mark.parametrize("method", ["dense", "magnitude"])
def test_questions_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n" + json.dumps({"question": "A rev hello", "answer": "olleh"}) + "\n\n")
    _load("own_questions").main(questions=path, method=method)
    assert capsys.readouterr().out.startswith("dense: 1 of 1 right")


@pytest.mark.parametrize("text", ["4", "It is 4.", "so\n**4**", "the answer: `4`."])
def test_punctuation_after_an_answer_does_not_count(text: str) -> None:
    is_right = _load("own_questions").is_right
    assert is_right(text, {"answer": 4})
    assert not is_right(text, {"answer": 5})


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


def test_a_failing_batch_leaves_no_request_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _load("batching_service")
    client = TestClient(
        module.service(str(module.model_path()), "dense", wait=0.01), raise_server_exceptions=False
    )
    with client:

        def fail(*_: Any) -> None:
            raise regrow.RegrowError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(module.Batcher, "_decode", fail)
            assert client.post("/generate", json={"prompt": "A add 1 2"}).status_code == 500
        assert client.post("/generate", json={"prompt": "A add 1 2"}).status_code == 200
