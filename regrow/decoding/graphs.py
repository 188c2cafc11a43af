"""Decode steps recorded once and replayed, so that the host only says which."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol, final

import torch
from torch import Tensor


class Recorder(Protocol):
    """Records a step without running it; gives what replays it, and the tensor its replays write their result to. None: it is run."""

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor] | None: ...


@final
class Graphs:
    """Steps by what they depend on. Everything a step reads and writes has to keep its address for as long as this is run."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, tuple[Callable[[], None], Tensor] | None] = {}

    def run(self, key: Hashable, step: Callable[[], Tensor]) -> Tensor:
        """The step's result. The first of a key runs as it is, which compiles kernels and loads libraries; the second is recorded."""
        if key not in self._seen:
            self._seen.add(key)
            return step()
        if key not in self._recorded:
            self._recorded[key] = self._record(step)
        if (recorded := self._recorded[key]) is None:
            return step()
        replay, result = recorded
        replay()
        return result


@final
class CudaRecorder:
    """CUDA graphs that share one pool of memory: they are replayed one after another, never at once.

    A pool dies with the last of its graphs, so another recorder has another pool, and a stream of its own: what libraries keep for a stream
    lives in the pool of the first graph recorded on it.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = step()
        return graph.replay, result
