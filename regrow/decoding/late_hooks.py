"""Notices hooks that a callback or another thread registers during a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch.utils.hooks import RemovableHandle


@final
class LateHooks:
    """Repeats a check whenever a hook was registered on any module.

    torch numbers the handles of hooks, so a look costs one comparison if there was none.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check, self._seen = check, RemovableHandle.next_id

    def look(self) -> None:
        """Calls the check if a hook was registered since the last look, and lets its errors through."""
        if self._seen != RemovableHandle.next_id:
            self._seen = RemovableHandle.next_id
            self._check()
