"""The contenders of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from regrow.bench.rounds import Contender, Peer
from regrow.calibration.calibration import Calibration, Origin, calibrated, fingerprint
from regrow.calibration.make_calibration import measure
from regrow.errors import UsageError
from regrow.hosts.generate import generate
from regrow.method.base import InputMethod, Method, Needs
from regrow.method.dense import Dense
from regrow.method.presets import make, parameters

METHODS: Final = ("dense", "griffin", "teal", "bap")
ON_A_GPU: Final = ("teal", "wina")  # on a CPU they read all weights, so their time says nothing there
STOCK: Final = (
    Contender("transformers", cache="dynamic"),
    Contender("transformers, static cache", cache="static"),
)
# Calibration text: what the model decodes from random tokens.
_PROMPT, _NEW = 16, 112


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
    model: PreTrainedModel,
    methods: Mapping[str, Method],
    peers: Mapping[str, Peer] | None = None,
    *,
    stock: bool = True,
) -> list[Contender]:
    """Returns the methods, then the other engines.

    With `stock`, transformers' own loop with each kind of KV cache follows.
    """
    ours = [
        Contender(name, method, None if method.needs is None else cache(partial(_calibration, model, method)))
        for name, method in methods.items()
    ]
    return (
        ours
        + [Contender(name, peer=peer) for name, peer in (peers or {}).items()]
        + list(STOCK if stock else ())
    )


def _calibration(model: PreTrainedModel, method: Method, rows: int) -> Calibration:
    """Makes the calibration for a batch of `rows` rows.

    The mean over many rows varies less from input to input than a single row does. With thresholds for single
    rows, a batch would keep more inputs than the target says.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.config.vocab_size, (rows, _PROMPT), generator=generator).to(model.device)
    text = generate(
        model, ids, method=Dense(), max_new_tokens=_NEW, do_sample=False, pad_token_id=0
    ).sequences
    origin = Origin(
        "",
        fingerprint(model),
        method.name,
        calibrated(method),
        "random tokens",
        "0" * 64,
        rows,
        text.numel(),
        text.shape[1],
    )
    # Only the masks of input methods depend on the mean over the rows.
    sequences = [text] if isinstance(method, InputMethod) else list(text)
    tensors = measure(model, method, sequences)
    return Calibration(origin, {name: tensor.cpu() for name, tensor in tensors.items()})
