"""Deliberately slow references of Wanda and SparseGPT, from their equations. They share no code with regrow.

SparseGPT is done here as the original optimal brain surgeon: one column at a time, with the inverse Hessian
of the remaining inputs, in float64, without a Cholesky factor or blocks. The pass over the layers runs the
whole model again for every layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Inputs = Sequence[Tensor]  # the inputs [T, in] of a linear layer, by sequence
Prune = Callable[[Tensor, Inputs], Tensor]  # the weight [out, in] and its inputs -> the pruned weight


def best(scores: Sequence[float], keep: int) -> set[int]:
    """Return the indices of the `keep` largest scores. Of equal scores the first wins."""
    return set(sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:keep])


def two_of_four(scores: Tensor) -> Tensor:
    """Return the mask [out, in] of the weights that 2:4 sparsity keeps."""
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    for row, of_row in enumerate(scores.tolist()):
        for first in range(0, len(of_row), 4):
            for place in best(of_row[first : first + 4], 2):
                kept[row, first + place] = True
    return kept


def share_of_rows(scores: Tensor, sparsity: str) -> Tensor:
    """Return the mask [out, in] of the weights that are kept if each row loses the share `sparsity`."""
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    for row, of_row in enumerate(scores.tolist()):
        for place in best(of_row, int((1 - Fraction(sparsity)) * len(of_row))):
            kept[row, place] = True
    return kept


def wanda_scores(weight: Tensor, inputs: Inputs) -> Tensor:
    """Return |W_ij| sqrt(mean over all tokens of x_j^2), [out, in] float64."""
    tokens = torch.cat([x.double() for x in inputs])
    means = [sum(x**2 for x in column) / len(column) for column in tokens.t().tolist()]
    return torch.stack(
        [row.double().abs() * torch.tensor(means, dtype=torch.float64).sqrt() for row in weight]
    )


def wanda(weight: Tensor, inputs: Inputs) -> Tensor:
    """Return the weight pruned by Wanda to 2:4."""
    return torch.where(two_of_four(wanda_scores(weight, inputs)), weight, 0)


def damped_hessian(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return H = (2/n) sum x x^T, [in, in] float64, and the mask of inputs that are always zero, [in] bool.

    0.01 of the mean of the diagonal is added to the diagonal of H.
    """
    hessian = sum(torch.outer(token, token) for x in inputs for token in x.double()) * (2 / len(inputs))
    dead = torch.tensor([float(hessian[i, i]) == 0 for i in range(len(hessian))])
    for i in range(len(hessian)):
        if dead[i]:
            hessian[i, i] = 1
    return hessian + 0.01 * torch.trace(hessian) / len(hessian) * torch.eye(
        len(hessian), dtype=torch.float64
    ), dead


def without_first(inverse: Tensor) -> Tensor:
    """Return the inverse of a matrix without its first row and column, given the inverse of the matrix."""
    return (inverse - torch.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]


def sparsegpt(weight: Tensor, inputs: Inputs) -> Tensor:
    """Return the weight pruned by SparseGPT to 2:4, in float64.

    Of every four weights of a row, the two with the smallest w^2 / [H^-1]_ii are pruned, column by column.
    """
    hessian, dead = damped_hessian(inputs)
    pruned = torch.where(dead, 0, weight.double())
    inverse = torch.linalg.inv(hessian)  # for the columns from i on
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
    """Return every linear layer inside a decoder layer, by its name in the model."""
    inside = f"model.layers.{layer}."
    return {
        name: m for name, m in model.named_modules() if name.startswith(inside) and isinstance(m, nn.Linear)
    }


def inputs_of(
    model: PreTrainedModel, chosen: Mapping[str, nn.Linear], sequences: Sequence[Tensor]
) -> dict[str, list[Tensor]]:
    """Return the inputs [T, in] of the chosen linear layers, by sequence, from runs of the whole model."""
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
    """Return the pruned weights by name. When a layer is pruned, the earlier layers are pruned already."""
    model, pruned = copy.deepcopy(model), {}
    for layer in range(model.config.num_hidden_layers):
        chosen = linears(model, layer)
        inputs = inputs_of(model, chosen, sequences)
        for name, linear in chosen.items():
            pruned[f"{name}.weight"] = prune(linear.weight.detach(), inputs[name])
            linear.weight.data = pruned[f"{name}.weight"]
    return pruned


def in_one_go(model: PreTrainedModel, sequences: Sequence[Tensor], prune: Prune) -> dict[str, Tensor]:
    """Return the pruned weights by name, with every layer pruned on its inputs in the dense model.

    Wanda and SparseGPT do not do this.
    """
    chosen = {
        name: m
        for layer in range(model.config.num_hidden_layers)
        for name, m in linears(model, layer).items()
    }
    inputs = inputs_of(model, chosen, sequences)
    return {f"{name}.weight": prune(linear.weight.detach(), inputs[name]) for name, linear in chosen.items()}
