"""Deliberately slow references of Wanda and SparseGPT, from their equations; they share no code with regrow.

SparseGPT is the optimal brain surgeon itself: one column at a time, with the inverse of the Hessian of the inputs that are left, in
float64 and without a Cholesky factor or blocks. The pass over the layers runs the whole model again for every layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Inputs = Sequence[Tensor]  # the inputs [T, in] of a linear, by sequence
Prune = Callable[[Tensor, Inputs], Tensor]  # the weight [out, in] and its inputs -> the pruned weight


def best(scores: Sequence[float], keep: int) -> set[int]:
    """The places of the `keep` largest scores, of equal ones the first."""
    return set(sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:keep])


def two_of_four(scores: Tensor) -> Tensor:
    """Which weights [out, in] stay under 2:4."""
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    for row, of_row in enumerate(scores.tolist()):
        for first in range(0, len(of_row), 4):
            for place in best(of_row[first : first + 4], 2):
                kept[row, first + place] = True
    return kept


def share_of_rows(scores: Tensor, sparsity: str) -> Tensor:
    """Which weights [out, in] stay where each row loses the share `sparsity`."""
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    for row, of_row in enumerate(scores.tolist()):
        for place in best(of_row, int((1 - Fraction(sparsity)) * len(of_row))):
            kept[row, place] = True
    return kept


def wanda_scores(weight: Tensor, inputs: Inputs) -> Tensor:
    """|W_ij| sqrt(mean over all tokens of x_j^2), [out, in] float64."""
    tokens = torch.cat([x.double() for x in inputs])
    means = [sum(x**2 for x in column) / len(column) for column in tokens.t().tolist()]
    return torch.stack(
        [row.double().abs() * torch.tensor(means, dtype=torch.float64).sqrt() for row in weight]
    )


def wanda(weight: Tensor, inputs: Inputs) -> Tensor:
    """Wanda with 2:4."""
    return torch.where(two_of_four(wanda_scores(weight, inputs)), weight, 0)


def damped_hessian(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """H = (2/n) sum x x^T with 0.01 of its mean diagonal added, [in, in] float64, and the inputs that are always zero, [in] bool."""
    hessian = sum(torch.outer(token, token) for x in inputs for token in x.double()) * (2 / len(inputs))
    dead = torch.tensor([float(hessian[i, i]) == 0 for i in range(len(hessian))])
    for i in range(len(hessian)):
        if dead[i]:
            hessian[i, i] = 1
    return hessian + 0.01 * torch.trace(hessian) / len(hessian) * torch.eye(
        len(hessian), dtype=torch.float64
    ), dead


def without_first(inverse: Tensor) -> Tensor:
    """The inverse of a matrix without its first row and column, from the inverse of the whole."""
    return (inverse - torch.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]


def sparsegpt(weight: Tensor, inputs: Inputs) -> Tensor:
    """SparseGPT with 2:4, in float64: of the next four columns the two of least w^2 / [H^-1]_ii, then column by column."""
    hessian, dead = damped_hessian(inputs)
    pruned = torch.where(dead, 0, weight.double())
    inverse = torch.linalg.inv(hessian)  # of the columns from i on
    for i in range(weight.shape[1]):
        if i % 4 == 0:
            ahead, costs = inverse, []
            for column in range(i, i + 4):
                costs.append(pruned[:, column] ** 2 / ahead[0, 0])
                ahead = without_first(ahead)
            kept = two_of_four(torch.stack(costs, dim=1))
        goes = ~kept[:, i % 4]
        pruned[goes, i:] -= torch.outer(pruned[goes, i] / inverse[0, 0], inverse[0])
        pruned[goes, i] = 0
        inverse = without_first(inverse)
    return pruned


def linears(model: PreTrainedModel, layer: int) -> dict[str, nn.Linear]:
    """Every linear inside a decoder layer, by its name in the model."""
    inside = f"model.layers.{layer}."
    return {
        name: m for name, m in model.named_modules() if name.startswith(inside) and isinstance(m, nn.Linear)
    }


def inputs_of(
    model: PreTrainedModel, chosen: Mapping[str, nn.Linear], sequences: Sequence[Tensor]
) -> dict[str, list[Tensor]]:
    """What the chosen linears are fed, [T, in] by sequence, in plain runs of the whole model."""
    seen: dict[str, list[Tensor]] = {name: [] for name in chosen}
    handles = [
        m.register_forward_hook(lambda _, args, __, name=name: seen[name].append(args[0][0].clone()))
        for name, m in chosen.items()
    ]
    with torch.no_grad():
        for ids in sequences:
            model(ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def layer_by_layer(model: PreTrainedModel, sequences: Sequence[Tensor], prune: Prune) -> dict[str, Tensor]:
    """The pruned weights by name, where each layer is pruned in a model whose earlier layers are pruned already."""
    model, pruned = copy.deepcopy(model), {}
    for layer in range(model.config.num_hidden_layers):
        chosen = linears(model, layer)
        inputs = inputs_of(model, chosen, sequences)
        for name, linear in chosen.items():
            pruned[f"{name}.weight"] = prune(linear.weight.detach(), inputs[name])
            linear.weight.data = pruned[f"{name}.weight"]
    return pruned


def in_one_go(model: PreTrainedModel, sequences: Sequence[Tensor], prune: Prune) -> dict[str, Tensor]:
    """The pruned weights by name where every layer is pruned by what the dense model feeds it: not what Wanda and SparseGPT do."""
    chosen = {
        name: m
        for layer in range(model.config.num_hidden_layers)
        for name, m in linears(model, layer).items()
    }
    inputs = inputs_of(model, chosen, sequences)
    return {f"{name}.weight": prune(linear.weight.detach(), inputs[name]) for name, linear in chosen.items()}
