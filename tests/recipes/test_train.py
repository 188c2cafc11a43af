"""Runs the recipe on a model of a few thousand parameters."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny_reasoner"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(RECIPE))
    config = json.loads((RECIPE / "config.json").read_text())
    config["model"] |= {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    config["training"] |= {
        "steps": 4,
        "decay_steps": 2,
        "warmup_steps": 1,
        "tokens_per_step": 512,
        "pool": 4,
        "short_until": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))

    def run(out: str, *more: str) -> Path:
        import train as recipe

        argv = [
            "train.py",
            "--out",
            str(tmp_path / out),
            "--config",
            str(tmp_path / "config.json"),
            "--device",
            "cpu",
            *more,
        ]
        monkeypatch.setattr(sys, "argv", argv)
        recipe.main()
        return tmp_path / out

    return run


def test_a_stopped_run_resumes_to_the_same_weights(train) -> None:  # type: ignore[no-untyped-def]
    whole = train("whole")
    train("stopped", "--stop-at", "2")
    stopped = train("stopped")
    a, b = (torch.load(out / "checkpoint.pt", weights_only=True)["model"] for out in (whole, stopped))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_result_is_a_plain_hugging_face_model(train) -> None:  # type: ignore[no-untyped-def]
    directory = train("out") / "model"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    assert model.dtype == torch.bfloat16
    assert [path.name for path in directory.glob("*.safetensors")] == ["model.safetensors"]
    text = "A add 12 34\nB sort 7301"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)[
        "input_ids"
    ]
    assert tokenizer.decode(ids) == f"<|user|>{text}<|assistant|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_another_configuration_is_refused(train, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    train("out", "--stop-at", "1")
    config = json.loads((tmp_path / "config.json").read_text())
    config["training"]["muon_lr"] = 1.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="another configuration"):
        train("out")
