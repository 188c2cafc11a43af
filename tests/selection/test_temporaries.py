"""Methods of the index set hold no more tensors of the size of all scores than their users count on."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from typing import Any

import pytest
import torch
from torch import is_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regrow.core import Rows, Spec
from regrow.selection.index_set import AGGREGATES, BUFFERS, MEMORIES, TEMPORARIES, WEIGHINGS, IndexSet
from regrow.selection.schedule import Schedule

LAYERS, SLOTS, NEURONS = 2, 3, 11


class Made(TorchDispatchMode):
    """Counts the results of at least `size` elements that are in new storages."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if is_tensor(each)}
        result = operation(*args, **(kwargs or {}))
        self.count += sum(
            each.numel() >= self.size and each.untyped_storage().data_ptr() not in given
            for each in tree_leaves(result)
            if is_tensor(each)
        )
        return result


@pytest.mark.parametrize("weigh", WEIGHINGS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("memory", MEMORIES)
def test_no_method_makes_more_temporaries_of_the_size_of_scores_than_are_counted(
    memory: str, aggregate: str, weigh: str
) -> None:
    parts = IndexSet(Decimal("0.5"), Schedule(2, 1, 4), aggregate=aggregate, memory=memory, weigh=weigh)
    spec = Spec(LAYERS, NEURONS, SLOTS, torch.device("cpu"), torch.float32)
    state = parts.init(spec, norms=torch.ones(LAYERS, NEURONS))
    size, z = state.total.numel(), torch.randn(LAYERS, SLOTS, NEURONS).bfloat16()
    slot, every = torch.arange(SLOTS), torch.ones(SLOTS, dtype=torch.bool)
    rows = Rows(ended=every, occupied=every, finished=~every)
    for run in (
        lambda: parts.open(state),
        lambda: parts.commit(state, slot),
        lambda: parts.commit(state, slot, z),
        lambda: parts.commit(state, slot, z, lambda squares: squares),  # one shard of a model
        lambda: parts.fold(state, rows),
        lambda: parts.select(state, rows),
    ):
        with Made(size) as made:
            run()
        assert made.count <= TEMPORARIES
    buffers = [getattr(state, field.name) for field in fields(state)]
    assert sum(buffer.numel() == size for buffer in buffers) == BUFFERS
