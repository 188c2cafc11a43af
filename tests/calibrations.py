"""Calibrations of the tiny models, from random text with a fixed seed."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from transformers import PreTrainedModel

from families import VOCABULARY
from regrow.calibration.calibration import Calibration, Origin, calibrated, fingerprint
from regrow.calibration.make_calibration import measure
from regrow.method.base import Method


def text(seed: int = 0, count: int = 6, length: int = 24) -> list[Tensor]:
    """Return sequences of ids, some shorter than `length`."""
    rng = random.Random(seed)
    return [
        torch.tensor([rng.randrange(3, VOCABULARY) for _ in range(length - number % 3)])
        for number in range(count)
    ]


def calibration_for(
    model: PreTrainedModel, method: Method, sequences: list[Tensor] | None = None
) -> Calibration | None:
    """Return the calibration that the method needs for the model, or None."""
    if method.needs is None:
        return None
    sequences = sequences or text()
    origin = Origin(
        "tiny", fingerprint(model), method.name, calibrated(method), "drawn", "0" * 64, len(sequences), 0, 0
    )
    return Calibration(origin, measure(model, method, sequences))
