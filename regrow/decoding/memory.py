"""Out of memory, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from regrow.errors import NoMemoryError


@contextmanager
def out_of_memory(what: str) -> Iterator[None]:
    """Raises NoMemoryError where there is not enough of it for `what`."""
    try:
        yield
    except RuntimeError as error:
        # A GPU raises a type of its own, a CPU a plain RuntimeError.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise NoMemoryError(
            f"there is not enough memory for {what}; take smaller batches, or fewer new tokens"
        ) from error
