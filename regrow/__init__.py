"""Regrow: batched decoding of large reasoning models, faster without training. Prune, let it regrow, prune again."""

from regrow.errors import RegrowError, UsageError
from regrow.hosts.engine import Progress
from regrow.hosts.hf import Generation, generate, prune
from regrow.method.batchwise_adaptive import BatchwiseAdaptive
from regrow.method.dense import Dense
from regrow.method.griffin import Griffin
from regrow.method.presets import METHODS
from regrow.report import Report
from regrow.session import Session

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "BatchwiseAdaptive",
    "Dense",
    "Generation",
    "Griffin",
    "Progress",
    "RegrowError",
    "Report",
    "Session",
    "UsageError",
    "generate",
    "prune",
]
