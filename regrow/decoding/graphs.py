"""Records decode steps once and replays them, so that the host only chooses which one to replay."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol, final

import torch
from torch import Tensor


class Recorder(Protocol):
    """Records a step without running it.

    Returns a function that replays the step, and the tensor that every replay writes its result to. None
    means that the step cannot be recorded; it is then run each time.
    """

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor] | None: ...


@final
class Graphs:
    """Recorded decode steps by key.

    Every buffer that a step reads or writes must keep its address while its recording is in use.
    """

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, tuple[Callable[[], None], Tensor] | None] = {}

    def run(self, key: Hashable, step: Callable[[], Tensor]) -> Tensor:
        """Returns the result of a step.

        The first step of a key runs unrecorded, which compiles kernels and loads libraries. The second is
        recorded, and replayed from then on.
        """
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
    """Captures steps as CUDA graphs that share one memory pool.

    The graphs can share it because they are replayed one after another, never at once. A pool dies with the
    last of its graphs, so another recorder has its own pool. It also has its own stream, because what
    libraries keep for a stream lives in the pool of the first graph that was captured on it.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = step()
        return graph.replay, result
