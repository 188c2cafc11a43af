"""Rollouts from a model that trains: the weights change between the batches, and the masks follow.

The loop is a toy policy gradient: sample answers with a pruned model, reward the right ones, and make one
optimiser step. Before each batch Regrow notices that the weights changed and makes everything that it
derived from them (norms, copies, captured steps) anew.

    python examples/rollouts.py
"""

from __future__ import annotations

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

import regrow
from regrow.bundled import model_path
from regrow.bundled.problems import heldout


def main(steps: int = 3, samples: int = 8, max_new_tokens: int = 120) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    method = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=8)

    with regrow.Engine(model, method) as engine:
        for step, exercise in enumerate(heldout(steps)):
            done = engine.generate(
                tokenizer, [exercise.prompt] * samples, max_new_tokens=max_new_tokens, do_sample=True
            )
            rewards = torch.tensor(
                [sum(exercise.marks(text)) for text in done.texts or []], dtype=torch.float32
            )
            loss = policy_loss(model, done, rewards - rewards.mean())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            print(f"step {step}: mean reward {rewards.mean():.2f}, {done.report.actual_sparsity:.1%} sparse")


def policy_loss(model: torch.nn.Module, done: regrow.Generation, advantages: torch.Tensor) -> torch.Tensor:
    """Returns the policy-gradient loss of a batch of rollouts of one prompt, whose rows have no padding.

    The model is called directly here, so this pass is dense, with gradients.
    """
    width = done.sequences.shape[1] - max(map(len, done.tokens))
    logits = model(done.sequences).logits[:, width - 1 : -1].log_softmax(dim=-1)
    chosen = logits.gather(2, done.sequences[:, width:, None]).squeeze(2)
    lengths = torch.tensor([len(row) for row in done.tokens])
    real = torch.arange(chosen.shape[1]) < lengths[:, None]
    return -(advantages[:, None] * chosen * real).sum() / real.sum()


if __name__ == "__main__":
    typer.run(main)
