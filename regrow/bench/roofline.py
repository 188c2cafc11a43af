"""How fast a decode step can be: the bytes it has to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from transformers import PreTrainedModel

from regrow.adapter.find import find_ffns
from regrow.adapter.linears import sizes
from regrow.core import FFN_SITES, Site, Sizes
from regrow.method.base import Method
from regrow.selection.schedule import Schedule


@final
@dataclass(frozen=True)
class Weights:
    """Bytes of a model that a dense decode step reads, and of the keys and values of one token."""

    sites: dict[Site, int]
    head: int
    kv_token: int

    @property
    def ffn(self) -> int:
        return sum(self.sites[site] for site in FFN_SITES)

    def dense(self, rows: int, context: int) -> int:
        """Of a decode step of `rows` samples whose keys and values are `context` tokens long."""
        return sum(self.sites.values()) + self.head + rows * context * self.kv_token

    def pruned(self, method: Method, rows: int, context: int) -> int:
        """Of a step in which the method prunes as much as it is asked to."""
        return self.dense(rows, context) - round(
            float(method.target) * sum(self.sites.get(site, 0) for site in method.sites)
        )


def weights_of(model: PreTrainedModel) -> Weights:
    """Raises UsageError for a model that cannot be pruned."""
    found: Sizes = sizes(model, find_ffns(model))
    config, element = model.config, model.dtype.itemsize
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    head: int = model.get_output_embeddings().weight.numel()  # type: ignore[no-untyped-call]
    return Weights(
        sites={site: element * sum(row) for site, row in found.items()},
        head=element * head,
        kv_token=element * 2 * config.num_hidden_layers * config.num_key_value_heads * width,
    )


def per_step(dense: int, pruned: int, schedule: Schedule, moved: float = 0) -> float:
    """Bytes of a step on average over one period of the schedule, with those that a refresh reads and writes."""
    if not schedule.prunes:
        return float(dense)
    share = schedule.explore_steps / schedule.period
    return share * dense + (1 - share) * pruned + moved / schedule.period
