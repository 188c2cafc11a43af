"""Hooks that are registered in the middle of a batch, by a callback or by another thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch.utils.hooks import RemovableHandle


@final
class LateHooks:
    """Asks a question anew whenever somebody has registered a hook on anything: torch numbers the handles that it gives out, so that a
    look costs nothing where there was none."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask, self._seen = ask, RemovableHandle.next_id

    def look(self) -> None:
        """Raises what the question raises."""
        if self._seen != RemovableHandle.next_id:
            self._seen = RemovableHandle.next_id
            self._ask()
