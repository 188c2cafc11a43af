"""Loads causal language models with their tokenizers, identifies them by digests, and encodes prompts."""

from __future__ import annotations

from regrow.models.device import find_device
from regrow.models.encode_prompts import encode
from regrow.models.loaded import Loaded, labelled
from regrow.models.loading import BUNDLED, DTYPES, WEIGHTS, load

__all__ = ["BUNDLED", "DTYPES", "WEIGHTS", "Loaded", "encode", "find_device", "labelled", "load"]
