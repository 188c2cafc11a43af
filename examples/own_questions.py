"""Answers your own questions with your own model, dense and pruned, and counts the right answers.

    python examples/own_questions.py org/model --questions my.jsonl --method bap --sparsity 0.5

The file has one JSON object a line, with the fields "question" and "answer". Methods that need a calibration
(`regrow methods` says which) take one as `regrow.Engine(..., calibration=regrow.Calibration.load(path))`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

import regrow
from regrow.bundled import model_path
from regrow.method.presets import make, parameters

QUESTIONS = Path(__file__).with_name("questions.jsonl")


def main(
    model: Annotated[str, typer.Argument(help="A directory or a hub id.")] = str(model_path()),
    questions: Path = QUESTIONS,
    method: str = "bap",
    sparsity: float = 0.5,
    init_steps: Annotated[int, typer.Option(help="Dense decode steps before pruning begins.")] = 16,
    batch_size: int = 4,
    max_new_tokens: int = 256,
) -> None:
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in questions.read_text().splitlines() if line.strip()]
    given = {"sparsity": sparsity, "init_steps": init_steps}
    pruning = make(method, **{name: given[name] for name in parameters(method) if name in given})

    for chosen in (regrow.Dense(), pruning):
        right, sparse, steps = 0, 0, 0
        # An engine keeps its buffers from batch to batch. One that owns the model may also move the weights
        # into the layout that the CPU reads fastest.
        with regrow.Engine(network, chosen, owns_model=True) as engine:
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                prompts = [row["question"] for row in batch]
                done = engine.generate(tokenizer, prompts, max_new_tokens=max_new_tokens, do_sample=False)
                right += sum(is_right(text, row) for text, row in zip(done.texts or [], batch, strict=True))
                sparse, steps = sparse + done.report.sparse_steps, steps + done.report.decode_steps
        print(f"{chosen.name}: {right} of {len(rows)} right; {sparse} of {steps} decode steps were sparse")


def is_right(text: str, row: dict[str, Any]) -> bool:
    """Returns True if the last line of an answer ends with the expected one, whatever its punctuation."""
    lines = text.strip().splitlines() or [""]
    return lines[-1].rstrip(" .!*`\"'").endswith(str(row["answer"]))


if __name__ == "__main__":
    typer.run(main)
