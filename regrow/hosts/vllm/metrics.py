"""What Regrow adds to the server's metrics, which a worker process counts and the server's process shows.

The two share a directory, which `regrow serve` sets (PROMETHEUS_MULTIPROC_DIR). Without one, the metrics are
those of the worker's process alone.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Final, final

from prometheus_client import Gauge

from regrow.session import Session

_SECONDS: Final = 1.0  # between two updates
_GAUGES: Final = {
    "decode_steps": "Passes with decode steps so far",
    "sparse_steps": "Decode steps so far that computed the kept neurons only",
    "sparse_step_share": "Share of the decode steps that were sparse",
    "actual_sparsity": "Share of FFN weights that decode steps did not read",
    "mask_selections": "Masks selected so far",
    "mask_turnover": "Mean share of neurons that a new mask has and the one before has not",
    "requests": "Requests that hold a slot",
}


@cache
def _gauges() -> dict[str, Gauge]:
    return {
        name: Gauge(f"regrow:{name}", text, multiprocess_mode="mostrecent") for name, text in _GAUGES.items()
    }


@final
class Metrics:
    """Shows the counters of a session, at most once a second unless the server is idle."""

    def __init__(self, session: Session) -> None:
        self._session, self._updated = session, float("-inf")

    def update(self, requests: int) -> None:
        """Called after every pass, and when requests have left. `requests` hold a slot."""
        now = time.monotonic()
        if requests and now - self._updated < _SECONDS:
            return
        self._updated = now
        for name, value in self._values(requests).items():
            _gauges()[name].set(value)

    def _values(self, requests: int) -> dict[str, float]:
        counters = self._session.report().counters
        turnover = counters.turnover
        return {
            "decode_steps": counters.decode_steps,
            "sparse_steps": counters.sparse_steps,
            "sparse_step_share": counters.sparse_steps / max(1, counters.decode_steps),
            "actual_sparsity": counters.actual_sparsity or 0.0,
            "mask_selections": counters.updates,
            "mask_turnover": sum(turnover) / max(1, len(turnover)),
            "requests": requests,
        }
