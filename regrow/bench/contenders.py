"""The contenders of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from regrow.bench.rounds import Contender, Peer
from regrow.calibration.calibration import Calibration, Origin, calibrated, fingerprint
from regrow.calibration.make_calibration import measure
from regrow.errors import UsageError
from regrow.method.base import Method, Needs
from regrow.method.presets import make, parameters

METHODS: Final = ("dense", "griffin", "teal", "bap")
ON_A_GPU: Final = ("teal", "wina")  # on a CPU they read all weights, so their time says nothing there
STOCK: Final = (
    Contender("transformers", cache="dynamic"),
    Contender("transformers, static cache", cache="static"),
)
# Calibration text: random tokens. The exact thresholds matter too little for speed to justify a longer text.
_SEQUENCES, _LENGTH = 2, 64


def methods(names: Sequence[str], sparsity: str) -> dict[str, Method]:
    """Makes the methods by name, the dense baseline first.

    Methods that begin with dense steps begin without them here, so that the steady state is timed.
    Raises UsageError for an unknown method, an invalid sparsity, or a method that changes weights.
    """
    return {name: _method(name, sparsity) for name in ["dense", *names]}


def _method(name: str, sparsity: str) -> Method:
    given: dict[str, Any] = {"sparsity": sparsity, "init_steps": 0}
    method = make(name, **{key: value for key, value in given.items() if key in parameters(name)})
    if method.needs is Needs.WEIGHTS:
        raise UsageError(
            f"method {name!r} changes weights and runs as fast as dense; leave it out of the benchmark"
        )
    return method


def contenders(
    model: PreTrainedModel, methods: Mapping[str, Method], peers: Mapping[str, Peer] | None = None
) -> list[Contender]:
    """Returns the methods, then the other engines, then transformers' own loop with each kind of KV cache."""
    ours = [Contender(name, method, _calibration(model, method)) for name, method in methods.items()]
    return ours + [Contender(name, peer=peer) for name, peer in (peers or {}).items()] + list(STOCK)


def _calibration(model: PreTrainedModel, method: Method) -> Calibration | None:
    if method.needs is None:
        return None
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(model.config.vocab_size, (_SEQUENCES, _LENGTH), generator=generator).to(model.device)
    origin = Origin(
        "",
        fingerprint(model),
        method.name,
        calibrated(method),
        "random tokens",
        "0" * 64,
        _SEQUENCES,
        rows.numel(),
        _LENGTH,
    )
    return Calibration(
        origin, {name: tensor.cpu() for name, tensor in measure(model, method, list(rows)).items()}
    )
