"""The ways in which objects are copied."""

from __future__ import annotations

import copy
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch


def shallow(thing: Any) -> Any:
    return copy.copy(thing)


def deep(thing: Any) -> Any:
    return copy.deepcopy(thing)


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def saved(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def sent(thing: Any) -> Any:
    """Return the copy that another process would receive."""
    return pickle.loads(bytes(ForkingPickler.dumps(thing)))
