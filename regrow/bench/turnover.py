"""How much a refresh changes the mask on real text, measured on the bundled model."""

from __future__ import annotations

import statistics

from regrow.bundled.problems import heldout
from regrow.hosts.generate import generate
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.models import encode, load

_ROWS, _NEW = 4, 160


def bundled_turnover(sparsity: str) -> float:
    """Share of the retained neurons that a refresh of Batch-wise Adaptive Pruning replaces.

    It is the mean over the layers and refreshes of one batch, decoded with the bundled model.
    """
    loaded = load(dtype="float32", device="cpu")
    ids, mask = encode(loaded, [one.prompt for one in heldout(_ROWS)])
    done = generate(
        loaded.model,
        ids,
        mask,
        method=BatchwiseAdaptive(sparsity=sparsity),
        max_new_tokens=_NEW,
        do_sample=False,
    )
    return statistics.mean(done.report.turnover)
