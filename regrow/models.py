"""Loads a causal language model and its tokenizer: the bundled one, a local directory, or one of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from regrow.bundled import model_path
from regrow.errors import RegrowError, UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
BUNDLED = "tiny-reasoner"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


@final
@dataclass(frozen=True)
class Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # what the user asked for
    directory: Path

    @property
    def context(self) -> int | None:
        """Tokens that fit, prompt and answer together."""
        limit: int | None = getattr(self.model.config, "max_position_embeddings", None)
        return limit

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the configuration and every byte of the weights."""
        digest = hashlib.sha256((self.directory / "config.json").read_bytes())
        for path in sorted(self.directory.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def load(model: str | Path | None = None, *, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False) -> Loaded:
    """The model in evaluation mode; None is the bundled one. Weights come from safetensors files only, and no code of the repository runs
    unless `trust_remote_code`.

    Raises UsageError for a request that cannot be met (no such model, dtype or device), RegrowError for damaged files.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    name = BUNDLED if model is None else str(model)
    target = find_device(device)
    directory = model_path() if model is None else _directory(name, trust_remote_code)
    _check_weights(directory)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
        kind = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else getattr(torch, dtype)
        _probe(kind, target)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
        network = AutoModelForCausalLM.from_pretrained(directory, dtype=kind, use_safetensors=True, trust_remote_code=trust_remote_code)
    except RegrowError:
        raise  # some are ValueErrors too
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RegrowError(f"{name} cannot be loaded as a causal language model: {_first_line(error)}") from error
    return Loaded(network.to(target).eval(), tokenizer, name, directory)  # type: ignore[arg-type]


def encode(loaded: Loaded, prompts: Sequence[str], *, chat: bool | None = None) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask [B, P] of the prompts, padded on the left, on the model's device.

    `chat`: each prompt is a user's message in the tokenizer's chat template; None: if it has one. Raises UsageError for no prompts, an
    empty one, or one that leaves no room in the context.
    """
    tokenizer = loaded.tokenizer
    if not prompts:
        raise UsageError("there are no prompts; give at least one")
    if chat and not tokenizer.chat_template:
        raise UsageError(f"the tokenizer of {loaded.name} has no chat template; use --no-chat")
    rows = [_tokens(tokenizer, prompt, bool(tokenizer.chat_template) if chat is None else chat) for prompt in prompts]
    for i, row in enumerate(rows):
        if not row:
            raise UsageError(f"prompt {i + 1} is empty; give it at least one token")
        if loaded.context is not None and len(row) >= loaded.context:
            raise UsageError(f"prompt {i + 1} has {len(row)} tokens, which leaves no room in the context of {loaded.context}; shorten it")
    pad, width = _pad_id(tokenizer), max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=loaded.model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.model.device)
    return ids, mask


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool) -> list[int]:
    if not prompt.strip():
        return []
    if not chat:
        ids: list[int] = tokenizer(prompt)["input_ids"]
        return ids
    message = [{"role": "user", "content": prompt}]
    # The template writes the BOS itself: tokenised as it is, so that there is one.
    encoded: Any = tokenizer.apply_chat_template(message, tokenize=True, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return 0 if pad is None else int(pad)


def _directory(name: str, trust_remote_code: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(name):
        raise UsageError(
            f"no model directory {name!r}; give a directory with config.json and safetensors files, or a hub id such as org/name"
        )
    patterns = [*_FILES, "*.py"] if trust_remote_code else _FILES
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UsageError(
            f"{name!r} is no local directory, and the hub does not give it: {_first_line(error)}; check the name and the network"
        ) from error


def _check_weights(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise UsageError(f"{directory} holds no config.json; give the directory of a Hugging Face model")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{directory} holds no safetensors files, and Regrow loads no other format; convert the weights to safetensors")
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise RegrowError(f"{path} is damaged ({_first_line(error)}); download or copy it again") from error


def find_device(device: str) -> torch.device:
    """The device of that name, `auto` for a GPU if there is one. Raises UsageError for one that cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {device!r} cannot be used here: {_first_line(error)}; use --device cpu or auto") from error
    return target


def _probe(dtype: torch.dtype, device: torch.device) -> None:
    """The smallest forward pass there is, to learn whether the device can do the dtype."""
    try:
        ones = torch.ones(2, 2, dtype=dtype, device=device)
        torch.nn.functional.silu(ones @ ones).sum().item()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(f"device {device} cannot compute in {name}: {_first_line(error)}; choose another --dtype") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
