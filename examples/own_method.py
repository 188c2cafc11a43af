"""A pruning method of your own, compared with Batch-wise Adaptive Pruning on the bundled model.

A method is a frozen dataclass that says what is scored, remembered and retained. `Latest` below keeps no
memory: a new mask counts only the activations of the latest exploration. CONTRIBUTING.md says how a method
becomes part of Regrow, with a name on the command line.

    python examples/own_method.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

import regrow
from regrow.bundled import model_path
from regrow.bundled.problems import heldout
from regrow.method.base import NeuronMethod
from regrow.selection.budget import Sparsity, parse_sparsity
from regrow.selection.index_set import IndexSet
from regrow.selection.schedule import Schedule, unless_zero


@final
@dataclass(frozen=True)
class Latest(NeuronMethod):
    """Retains the neurons with the highest scores of the latest exploration, whatever came before."""

    sparsity: Sparsity = 0.5
    init_steps: int = 16
    explore_steps: int = 2
    period: int = 20

    name: ClassVar[str] = "latest"
    summary: ClassVar[str] = "A mask without memory"
    source: ClassVar[str] = "examples/own_method.py"

    def index_set(self) -> IndexSet:
        sparsity = parse_sparsity(self.sparsity)
        schedule = Schedule(init_steps=self.init_steps, explore_steps=self.explore_steps, period=self.period)
        return IndexSet(sparsity, unless_zero(sparsity, schedule), memory="none")


def main(batch_size: int = 8, max_new_tokens: int = 400) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    exercises = heldout(batch_size)
    prompts = [exercise.prompt for exercise in exercises]

    for method in (regrow.Dense(), Latest(), regrow.BatchwiseAdaptive(init_steps=16)):
        done = regrow.generate(
            model, tokenizer, prompts, method=method, max_new_tokens=max_new_tokens, do_sample=False
        )
        marks = [exercise.marks(text) for exercise, text in zip(exercises, done.texts or [], strict=True)]
        right, problems = sum(map(sum, marks)), sum(map(len, marks))
        sparsity = done.report.actual_sparsity
        print(f"{method.name:7} {right} of {problems} problems right, actual sparsity {sparsity:.1%}")


if __name__ == "__main__":
    typer.run(main)
