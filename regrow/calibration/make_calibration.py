"""Makes the calibration of a model for a method, from a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from regrow.calibration.calibration import Calibration, Origin, calibrated, fingerprint
from regrow.calibration.text import Text
from regrow.calibration.thresholds import thresholds
from regrow.errors import UsageError
from regrow.method.base import Method, Needs
from regrow.models import Loaded
from regrow.run_config import digest
from regrow.weights.layerwise import prune_layers


def calibrate(
    loaded: Loaded, method: Method, text: Text, progress: Callable[[int, int], None] | None = None
) -> Calibration:
    """Computes what the method needs of this model from the text. The model is left unchanged.

    `progress(done, total)` is called after each step. Raises UsageError if the method needs no calibration or
    does not fit the model.
    """
    tensors = measure(loaded.model, method, text.sequences, progress)
    return Calibration(
        Origin(
            model=loaded.label,
            fingerprint=fingerprint(loaded.model),
            method=method.name,
            params=calibrated(method),
            text=text.source,
            text_sha256=digest([ids.tolist() for ids in text.sequences]),
            sequences=len(text.sequences),
            tokens=text.tokens,
            longest=max(map(len, text.sequences)),
        ),
        {name: tensor.cpu() for name, tensor in tensors.items()},
    )


def measure(
    model: PreTrainedModel,
    method: Method,
    sequences: Sequence[Tensor],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Computes the tensors of a calibration from `sequences` of ids; see `calibrate` and `thresholds`."""
    if method.needs is None:
        raise UsageError(f"method {method.name!r} with these parameters needs no calibration")
    if method.needs is Needs.THRESHOLDS:
        return thresholds(model, method, sequences, progress)
    return prune_layers(model, sequences, method.weight_pruner, progress)
