"""Turns out-of-memory errors into one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from regrow.errors import NoMemoryError


@contextmanager
def out_of_memory(what: str) -> Iterator[None]:
    """Raises NoMemoryError if memory runs out inside the context; `what` names what needs it."""
    try:
        yield
    except RuntimeError as error:
        # A GPU raises its own exception class, a CPU a plain RuntimeError.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise NoMemoryError(
            f"there is not enough memory for {what}; take smaller batches, or fewer new tokens"
        ) from error
