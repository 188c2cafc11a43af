"""A deliberately slow reference of the methods that `naive.py` does not cover, written from their equations.

It shares no code with regrow. TEAL and WINA prune inputs of linear layers. CATS and "every token" prune
neurons, token by token. Every live row is scored by itself. A list of indices says what is kept, everything
else is zeroed, and the model's own dense linear layers compute the result. Weights that take part in decode
steps are counted.

Symbols: L layers, B rows, P padded prompt length, T tokens of one forward, n inputs of a linear layer, F
neurons, of which k are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DynamicCache

import naive
from naive_rules import Settings, kept_count, retain

SITES = {
    "qkv": ("q_proj", "k_proj", "v_proj", "qkv_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj", "gate_up_proj"),
    "down": ("down_proj",),
}


@dataclass(frozen=True)
class Place:
    """A module that a method replaces: a linear layer, or the MLP of a layer (site "mlp")."""

    name: str
    layer: int
    site: str
    module: Any


def linears(model: Any) -> list[Place]:
    """Return the linear layers in the attention and the MLP of every layer."""
    parts = [
        (layer, kind, getattr(block, kind))
        for layer, block in enumerate(model.model.layers)
        for kind in ("self_attn", "mlp")
    ]
    children = [
        (layer, f"model.layers.{layer}.{kind}.{name}", name, m)
        for layer, kind, part in parts
        for name, m in part.named_children()
    ]
    return [
        Place(path, layer, site, m)
        for layer, path, name, m in children
        for site in SITES
        if name in SITES[site]
    ]


def sizes(model: Any, steps: int) -> dict[str, list[int]]:
    """Return the number of weights that dense steps read, by site and layer."""
    found = {site: [0] * model.config.num_hidden_layers for site in SITES}
    for place in linears(model):
        found[place.site][place.layer] += place.module.weight.numel() * steps
    return found


def gate(mlp: Any, x: Tensor) -> Tensor:
    """Return act(W_g x) [..., F]."""
    if hasattr(mlp, "gate_up_proj"):
        return mlp.activation_fn(mlp.gate_up_proj(x).chunk(2, dim=-1)[0])
    return mlp.act_fn(mlp.gate_proj(x))


def relative(z: Tensor) -> Tensor:
    """Return |z| / ||z||_2 of one token, [F]."""
    norm = z.square().sum().sqrt()
    return z.abs() / norm if norm > 0 else z.abs()


def choose(scores: Tensor, sparsity: str, threshold: float | None) -> list[int]:
    """Return the indices of the scores above the threshold or, without a threshold, of the k largest."""
    if threshold is None:
        return retain(scores, kept_count(sparsity, len(scores)))[0]
    return [place for place, score in enumerate(scores.tolist()) if score > threshold]


def only(x: Tensor, kept: Sequence[int]) -> Tensor:
    """Return x [..., n] with all entries outside of `kept` zeroed."""
    rest = torch.zeros_like(x)
    rest[..., kept] = x[..., kept]
    return rest


@dataclass(frozen=True)
class Now:
    """The current forward pass."""

    decode: bool
    live: list[bool]  # [B] in a decode step: the token fed is not an EOS and does not follow one


@dataclass(frozen=True)
class Outcome:
    """The results of a run, and the weights that its decode steps read."""

    columns: list[list[int]]  # [N][B] token chosen at each forward, pad after a row's end
    tokens: list[list[int]]  # of each row, up to and including its EOS
    kept: dict[str, list[int]]  # by site, the weights of each layer that were used
    dense: dict[str, list[int]]  # the same for dense steps


@dataclass(frozen=True)
class Inputs:
    """TEAL, or WINA with `norms`: keeps the inputs of a linear layer whose scores exceed its threshold.

    The score of an input is |x_i|, and for WINA |x_i| ||W[:, i]||_2. Over a batch, |x_i| becomes the mean of
    the magnitudes over the live rows, or the magnitude of the mean. Without thresholds, the k largest scores
    are kept.
    """

    thresholds: Mapping[str, float] | None  # by name of the linear layer
    sparsity: str = "0.5"
    norms: bool = False
    share: str = "mean_abs"
    sites: Sequence[str] = tuple(SITES)

    def places(self, model: Any) -> list[Place]:
        """Return the linear layers that are pruned."""
        return [place for place in linears(model) if place.site in self.sites]

    def scores(self, place: Place, rows: Sequence[Tensor]) -> Tensor:
        """Return the score [n] of each input over rows [n]."""
        mean = (
            sum(row.abs() for row in rows) / len(rows)
            if self.share == "mean_abs"
            else (sum(rows) / len(rows)).abs()
        )
        return mean * place.module.weight.square().sum(dim=0).sqrt() if self.norms else mean

    def kept(self, place: Place, rows: Sequence[Tensor]) -> list[int]:
        """Return the inputs that these rows [n] keep together."""
        return choose(
            self.scores(place, rows), self.sparsity, self.thresholds and self.thresholds[place.name]
        )

    def forward(self, place: Place, x: Tensor, now: Now, taken: dict[str, list[int]]) -> Tensor:
        """Return the output [B, T, out] for x [B, T, n]. A decode step adds its weights to `taken`."""
        if now.decode:
            kept = self.kept(place, [row[0] for row, live in zip(x, now.live, strict=True) if live])
            taken[place.site][place.layer] += len(kept) * place.module.out_features
            x = only(x, kept)
        return type(place.module).forward(place.module, x)


@dataclass(frozen=True)
class Tokens:
    """CATS or, without thresholds, "every token".

    CATS keeps the neurons whose |act(W_g x)_j| exceeds the layer's threshold, so up and down shrink. The
    score is the mean over the live rows. With `share` "none", each row keeps its own neurons, and the weights
    of all of them are read.

    "Every token" keeps the k neurons with the largest |zbar_j|, as mean or maximum over the live rows, so
    only down shrinks.
    """

    thresholds: Mapping[str, float] | None  # by name of the MLP
    sparsity: str = "0.5"
    share: str = "mean"
    sites: Sequence[str] = ("gate_up", "down")

    def places(self, model: Any) -> list[Place]:
        """Return the MLPs."""
        return [
            Place(f"model.layers.{layer}.mlp", layer, "mlp", block.mlp)
            for layer, block in enumerate(model.model.layers)
        ]

    def scores(self, place: Place, x: Tensor) -> Tensor:
        """Return the score [F] of each neuron for a token x [D]."""
        return (
            relative(naive.hidden(place.module, x))
            if self.thresholds is None
            else gate(place.module, x).abs()
        )

    def kept(self, place: Place, rows: Sequence[Tensor]) -> list[int]:
        """Return the neurons that rows with these scores [F] keep together."""
        scores = torch.stack(list(rows)).amax(0) if self.share == "max" else sum(rows) / len(rows)
        return choose(scores, self.sparsity, self.thresholds and self.thresholds[place.name])

    def forward(self, place: Place, x: Tensor, now: Now, taken: dict[str, list[int]]) -> Tensor:
        """Return the output [B, T, D] for x [B, T, D]. A decode step adds its weights to `taken`."""
        z = naive.hidden(place.module, x)
        if now.decode:
            scores = {b: self.scores(place, x[b, 0]) for b, live in enumerate(now.live) if live}
            kept = {
                b: self.kept(place, [scores[b]] if self.share == "none" else list(scores.values()))
                for b in scores
            }
            z = torch.stack([only(row, kept.get(b, [])) for b, row in enumerate(z)])
            read, (width, neurons) = len(set().union(*kept.values())), place.module.down_proj.weight.shape
            taken["gate_up"][place.layer] += width * (
                neurons + (neurons if self.thresholds is None else read)
            )
            taken["down"][place.layer] += width * read
        return place.module.down_proj(z)


def generate(
    model: Any, prompts: Sequence[Sequence[int]], settings: Settings, rule: Inputs | Tokens
) -> Outcome:
    """Decode a batch of unpadded prompts greedily with a rule that looks at the current step only."""
    ids, mask = naive.left_pad(prompts, settings.pad)
    writer, cache = naive.Writer(settings, len(prompts)), DynamicCache(config=model.config)
    taken = {site: [0] * model.config.num_hidden_layers for site in rule.sites}
    now, steps = Now(decode=False, live=[]), 0
    with torch.no_grad(), ExitStack() as stack:
        for place in rule.places(model):
            assert "forward" not in vars(place.module), "the reference needs an unpatched model"
            stack.enter_context(
                patch.object(
                    place.module, "forward", lambda x, place=place: rule.forward(place, x, now, taken)
                )
            )
        while True:
            positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)[:, -ids.shape[1] :]
            output = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            writer.choose(output.logits[:, -1])
            if writer.done():
                break
            steps += 1
            now = Now(decode=True, live=[not finished for finished in writer.finished()])
            ids = torch.tensor([[row[-1]] for row in writer.generated])
            mask = torch.cat([mask, torch.ones(len(prompts), 1, dtype=mask.dtype)], dim=1)
    dense = sizes(model, steps)
    return Outcome(
        [list(column) for column in zip(*writer.generated, strict=True)], writer.cut(), dense | taken, dense
    )
