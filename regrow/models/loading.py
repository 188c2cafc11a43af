"""Loads a causal language model and its tokenizer, from a local directory or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from regrow.adapter.rounded import round_linears
from regrow.bundled import model_path
from regrow.errors import RegrowError, require_one_of
from regrow.models.blame import blaming
from regrow.models.checkpoint import check_files, check_loaded
from regrow.models.configuration import read_configuration, remedy, setting_of, stored_dtype
from regrow.models.device import find_device, probe
from regrow.models.directory import find_directory
from regrow.models.generation import check_generation
from regrow.models.loaded import Loaded, Rounded
from regrow.models.tokenizer import load_tokenizer
from regrow.versions import require_supported

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
WEIGHTS = ("stored", "int4")
BUNDLED = "tiny-reasoner"


def load(
    model: str | Path | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    weights: str = "stored",
    rounding: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Loads a model, in evaluation mode, and its tokenizer; None loads the bundled model.

    `weights`: "stored" takes the weights of the files; "int4" rounds those of the decoder blocks to 4 bits
    (`regrow.round_weights`), and calls `rounding(layers done, all layers)` after every layer.

    Weights are read from safetensors files only. No code from the model's repository runs unless
    `trust_remote_code` is set.

    Raises UsageError for a request that cannot be met (no such model, dtype or device, or weights that cannot
    be rounded), RegrowError for damaged files.
    """
    require_supported()
    require_one_of(DTYPES, dtype=dtype)
    require_one_of(WEIGHTS, weights=weights)
    name = BUNDLED if model is None else str(model)
    target = find_device(device)
    directory = model_path() if model is None else find_directory(name, trust_remote_code)
    config = read_configuration(directory, name, trust_remote_code)
    check_files(directory, name)
    check_generation(directory, name)
    kind = stored_dtype(config, name) if dtype == "auto" else getattr(torch, dtype)
    probe(kind, target)
    tokenizer = load_tokenizer(directory, name, trust_remote_code)
    network = _network(directory, name, config, kind, trust_remote_code)
    rounded = None
    if weights == "int4":
        # On the CPU, so that the rounded weights do not depend on the device.
        error = round_linears(network, progress=rounding, pack=target.type == "cpu")
        rounded = Rounded.of(network, error)
    with blaming(f"{name} cannot be moved to {target}", "free its memory, or choose another --device"):
        network.to(target)  # type: ignore[arg-type]
    return Loaded(network, tokenizer, name, directory, rounded)


def _network(
    directory: Path, name: str, config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool
) -> PreTrainedModel:
    settings: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": True,
        "trust_remote_code": trust_remote_code,
    }
    # transformers would initialise missing or mismatched weights at random, so `check_loaded` looks for both.
    settings |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
    with blaming(f"{name} cannot be loaded as a causal language model", remedy(config)):
        try:
            loading: Any = AutoModelForCausalLM.from_pretrained(directory, **settings)
        except KeyError as error:  # its message is only the key
            key = setting_of(config, error.args[0] if error.args else None)
            if key is None:
                raise
            raise RegrowError(
                f"config.json of {name} says {key} {error}, which transformers does not know; correct it"
            ) from error
    network: PreTrainedModel
    network, info = loading
    check_loaded(network, info, name)
    return network.eval()  # type: ignore[no-untyped-call, no-any-return]
