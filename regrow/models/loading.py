"""Loads a causal language model and its tokenizer: the bundled one, a local directory, or one of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from regrow.bundled import model_path
from regrow.errors import RegrowError, UsageError, said
from regrow.models.device import find_device, probe
from regrow.models.directory import check_weights, find_directory
from regrow.models.loaded import Loaded

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
BUNDLED = "tiny-reasoner"


def load(model: str | Path | None = None, *, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False) -> Loaded:
    """The model in evaluation mode; None is the bundled one. Weights come from safetensors files only, and no code of the repository runs
    unless `trust_remote_code`.

    Raises UsageError for a request that cannot be met (no such model, dtype or device), RegrowError for damaged files.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    name = BUNDLED if model is None else str(model)
    target = find_device(device)
    directory = model_path() if model is None else find_directory(name, trust_remote_code)
    check_weights(directory)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
        kind = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else getattr(torch, dtype)
        probe(kind, target)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
        network = AutoModelForCausalLM.from_pretrained(directory, dtype=kind, use_safetensors=True, trust_remote_code=trust_remote_code)
    except RegrowError:
        raise  # some are ValueErrors too
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RegrowError(f"{name} cannot be loaded as a causal language model: {said(error)}") from error
    return Loaded(network.to(target).eval(), tokenizer, name, directory)  # type: ignore[arg-type]
