"""Batched decoding of large reasoning models, faster without training: prune, let it regrow, prune again."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regrow.calibration.calibration import Calibration
    from regrow.decoding.drafts.cascade import Cascade
    from regrow.decoding.drafts.four_bit import FourBit
    from regrow.decoding.drafts.masked import Masked
    from regrow.decoding.drafts.ngram import NGram
    from regrow.decoding.loop import Progress
    from regrow.decoding.lossless import Lossless
    from regrow.decoding.window import Costs
    from regrow.errors import RegrowError, UsageError
    from regrow.hosts.engine import Engine
    from regrow.hosts.generate import Generation, generate
    from regrow.hosts.hugging_face import prune
    from regrow.hosts.round_weights import round_weights
    from regrow.method.batchwise_adaptive import BatchwiseAdaptive
    from regrow.method.cats import CATS
    from regrow.method.dense import Dense
    from regrow.method.every_token import EveryToken
    from regrow.method.griffin import Griffin
    from regrow.method.magnitude import Magnitude
    from regrow.method.presets import METHODS
    from regrow.method.random_neurons import RandomNeurons
    from regrow.method.sparsegpt import SparseGPT
    from regrow.method.teal import TEAL
    from regrow.method.wanda import Wanda
    from regrow.method.wina import WINA
    from regrow.report import Report
    from regrow.session import Session

__version__ = "0.1.0"

__all__ = [
    "CATS",
    "METHODS",
    "TEAL",
    "WINA",
    "BatchwiseAdaptive",
    "Calibration",
    "Cascade",
    "Costs",
    "Dense",
    "Engine",
    "EveryToken",
    "FourBit",
    "Generation",
    "Griffin",
    "Lossless",
    "Magnitude",
    "Masked",
    "NGram",
    "Progress",
    "RandomNeurons",
    "RegrowError",
    "Report",
    "Session",
    "SparseGPT",
    "UsageError",
    "Wanda",
    "generate",
    "prune",
    "round_weights",
]

# Imported when first asked for: torch and transformers take seconds, and `regrow --help` needs neither.
_HOMES = {
    "CATS": "method.cats",
    "METHODS": "method.presets",
    "TEAL": "method.teal",
    "WINA": "method.wina",
    "BatchwiseAdaptive": "method.batchwise_adaptive",
    "Calibration": "calibration.calibration",
    "Cascade": "decoding.drafts.cascade",
    "Costs": "decoding.window",
    "Dense": "method.dense",
    "Engine": "hosts.engine",
    "EveryToken": "method.every_token",
    "FourBit": "decoding.drafts.four_bit",
    "Generation": "hosts.generate",
    "Griffin": "method.griffin",
    "Lossless": "decoding.lossless",
    "Masked": "decoding.drafts.masked",
    "NGram": "decoding.drafts.ngram",
    "Magnitude": "method.magnitude",
    "RandomNeurons": "method.random_neurons",
    "SparseGPT": "method.sparsegpt",
    "Wanda": "method.wanda",
    "Progress": "decoding.loop",
    "RegrowError": "errors",
    "Report": "report",
    "Session": "session",
    "UsageError": "errors",
    "generate": "hosts.generate",
    "prune": "hosts.hugging_face",
    "round_weights": "hosts.round_weights",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] != "errors":  # all others need torch and transformers
        import_module(f"{__name__}.versions").require_supported()
    found: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found  # this function is called once for each name
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
