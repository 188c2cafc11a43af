"""The settings of Regrow inside vLLM, as they stand under "regrow" in vLLM's `--additional-config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Self, final

from regrow.core import Surface
from regrow.errors import UsageError, require_one_of
from regrow.method.base import Method
from regrow.method.presets import make
from regrow.selection.clock import JOINS

KEY: Final = "regrow"
GIB: Final = 2**30


@final
@dataclass(frozen=True)
class ServeSettings:
    """What a server prunes with.

    Args:
        method: The method. It has to keep a mask of FFN neurons from step to step, and need no calibration.
        join: What happens if a request joins a batch that decodes already; see `JOINS`.
        memory_gib: Most memory for the scores of requests, in GiB. A server that would need more does not
            start. With tensor parallelism, it is that of each worker.

    Raises:
        UsageError: If a value does not fit.

    Example:
        ```python
        ServeSettings.of({"method": "bap", "sparsity": 0.5, "join": "dense"})
        ```
    """

    method: Method
    join: str = "dense"
    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        require_one_of(JOINS, join=self.join)
        if type(self.memory_gib) not in (int, float) or not 0 < self.memory_gib < inf:
            raise UsageError(f"memory_gib is a number above 0, not {self.memory_gib!r}")
        method = self.method
        if method.surface is Surface.NOTHING:
            return
        if method.surface is not Surface.NEURONS or not method.keeps_masks or method.needs is not None:
            raise UsageError(
                f"method {method.name!r} cannot be served: a server takes methods that keep a mask of FFN "
                "neurons and need no calibration, such as bap"
            )

    @classmethod
    def of(cls, given: object) -> Self:
        """Returns the settings of a mapping: `method`, its parameters, `join` and `memory_gib`."""
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise UsageError(f'"{KEY}" of additional-config is an object such as {{"method": "bap"}}')
        parameters = dict(given)
        own = {name: parameters.pop(name) for name in ("join", "memory_gib") if name in parameters}
        name = parameters.pop("method", "bap")
        if not isinstance(name, str):
            raise UsageError(f"method is a name such as bap, not {name!r}")
        return cls(make(name, **parameters), **own)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `of` takes."""
        described = self.method.describe()
        return {
            "method": described.pop("name"),
            **described,
            "join": self.join,
            "memory_gib": self.memory_gib,
        }

    @property
    def memory_bytes(self) -> int:
        """The bound on the memory for scores, in bytes."""
        return int(self.memory_gib * GIB)
