"""The check that every custom operator of the kernels has to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def check_custom_op(op: Any, arguments: tuple[Any, ...]) -> None:
    """Asserts that `op` is registered correctly, and gives the same bits inside a compiled graph as eagerly.

    `arguments` must hold no NaN.
    """
    torch.library.opcheck(op, arguments)
    torch._dynamo.reset()  # the count of compilations is per function, and the one below is shared
    traced = torch.compile(lambda *given: op(*given), fullgraph=True, backend="eager")
    by_itself, in_a_graph = _after(op, arguments), _after(traced, arguments)
    assert all(torch.equal(one, other) for one, other in zip(by_itself, in_a_graph, strict=True))


def _after(function: Callable[..., None], arguments: tuple[Any, ...]) -> list[Tensor]:
    copies = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
    function(*copies)
    return [copy for copy in copies if isinstance(copy, Tensor)]
