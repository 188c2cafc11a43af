"""The bytes that a decode step has to read. They bound its speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from transformers import PreTrainedModel

from regrow.adapter.find import find_ffns
from regrow.adapter.linears import sizes
from regrow.adapter.rounded import packed_blocks
from regrow.core import FFN_SITES, Site, Sizes
from regrow.method.base import Method
from regrow.selection.schedule import Schedule


@final
@dataclass(frozen=True)
class Weights:
    """Bytes of the weights that a dense decode step reads, and of one token in the KV cache."""

    sites: dict[Site, int]
    head: int
    kv_token: int  # keys and values of one token in all layers
    # Bytes of codes, at the sites where decode steps multiply codes instead of weights.
    codes: Mapping[Site, int] = field(default_factory=dict)

    @property
    def ffn(self) -> int:
        """Bytes of the FFN weights in all layers."""
        return sum(self.sites[site] for site in FFN_SITES)

    def read_by(self, method: Method | None) -> Weights:
        """Returns the bytes that decode steps with this method read; None stands for another engine.

        Where the method prunes, its steps read weights instead of codes.
        """
        codes = {} if method is None else self.codes
        own = method.sites if method is not None and method.target else ()
        read = {site: size if site in own else codes.get(site, size) for site, size in self.sites.items()}
        return replace(self, sites=read, codes={})

    def dense(self, rows: int, context: int) -> int:
        """Bytes that a dense decode step of `rows` samples reads, each with `context` cached tokens."""
        return sum(self.sites.values()) + self.head + rows * context * self.kv_token

    def pruned(self, method: Method, rows: int, context: int, sparsity: float | None = None) -> int:
        """Bytes that a decode step reads with this sparsity at all its sites (default: its target)."""
        return self.dense(rows, context) - round(
            float(method.target if sparsity is None else sparsity)
            * sum(self.sites.get(site, 0) for site in method.sites)
        )


def weights_of(model: PreTrainedModel) -> Weights:
    """Counts the bytes of a model's weights. Raises UsageError for a model that cannot be pruned."""
    found: Sizes = sizes(model, find_ffns(model))
    config, element = model.config, model.dtype.itemsize
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    packed = packed_blocks(model)
    head: int = model.get_output_embeddings().weight.numel()  # type: ignore[no-untyped-call]
    return Weights(
        sites={site: element * sum(row) for site, row in found.items()},
        head=element * head,
        kv_token=element * 2 * config.num_hidden_layers * config.num_key_value_heads * width,
        codes={} if packed is None else packed.sizes,
    )


def per_step(dense: int, pruned: int, schedule: Schedule, moved: float = 0) -> float:
    """Mean bytes of a decode step over one period of the schedule.

    `moved`: the bytes that one refresh reads and writes.
    """
    if not schedule.prunes:
        return float(dense)
    share = schedule.explore_steps / schedule.period
    return share * dense + (1 - share) * pruned + moved / schedule.period
