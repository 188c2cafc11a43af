"""A model with its tokenizer, and digests of everything in them that affects the generated tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)
_TOKENIZER_FILES_OF_FAMILIES = ("tekken.json", "*.model", "*.tiktoken", "tokenization_*.py")
# Settings that do not affect the generated tokens: further outputs of `generate`, and use of the KV cache.
_RETURNED = [
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
]
_ON_TEXTS = {"stop_strings", "token_healing"}  # settings for which `generate` needs the tokenizer
_BESIDE_TOKENS = [*_RETURNED, "use_cache"]


@final
@dataclass(frozen=True)
class Rounded:
    """What rounding the weights of a model to 4 bits has done."""

    error: float  # norm of the change, as a share of the norm of the weights
    sha256: str  # of all parameters of the rounded model

    @classmethod
    def of(cls, model: nn.Module, error: float) -> Self:
        """Describes a rounded model, before anything moves or replaces its parameters."""
        digest = hashlib.sha256()
        for name, parameter in model.named_parameters():
            digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}\n".encode())
            flat = parameter.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return cls(error, digest.hexdigest())


@final
@dataclass(frozen=True)
class Loaded:
    """A model and its tokenizer, loaded from `directory`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # what the user asked for
    directory: Path
    rounded: Rounded | None = None  # None: the weights are those that the files hold

    @property
    def weights(self) -> str:
        """What the weights are: "stored", those of the files, or "int4", rounded to 4 bits."""
        return "stored" if self.rounded is None else "int4"

    @property
    def label(self) -> str:
        """What results and summaries call the model."""
        return labelled(self.name, self.weights)

    @property
    def context(self) -> int | None:
        """Maximum number of tokens, prompt and answer together; None if the configuration sets no limit."""
        limit: int | None = getattr(self.model.config, "max_position_embeddings", None)
        return limit

    @property
    def embeddings(self) -> int:
        """Number of token ids that the model has embeddings for."""
        table: Any = self.model.get_input_embeddings()
        return int(table.weight.shape[0])

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of an answer, without special tokens."""
        text = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the configuration and every byte of the weights, as rounded if they were."""
        digest = hashlib.sha256((self.directory / "config.json").read_bytes())
        if self.rounded is not None:
            digest.update(self.rounded.sha256.encode())
            return digest.hexdigest()
        for path in sorted(self.directory.glob("*.safetensors")):
            digest.update(_file_digest(path))
        return digest.hexdigest()

    @cached_property
    def tokenizer_sha256(self) -> str:
        """sha256 over the names and bytes of the tokenizer's files."""
        digest = hashlib.sha256()
        for path in _matching(self.directory, _TOKENIZER_FILES + _TOKENIZER_FILES_OF_FAMILIES):
            digest.update(f"{path.name}\n".encode() + _file_digest(path))
        return digest.hexdigest()

    @cached_property
    def chat_template_sha256(self) -> str | None:
        """sha256 of the chat template in use, wherever it was read from; None without a template."""
        template: Any = self.tokenizer.chat_template
        if isinstance(template, dict):  # named templates: a conversation without tools uses "default"
            template = template.get("default")
        return hashlib.sha256(str(template).encode(errors="surrogatepass")).hexdigest() if template else None

    @cached_property
    def generation_settings(self) -> dict[str, Any]:
        """The model's generation settings that affect tokens and differ from the defaults, as JSON values."""
        config = self.model.generation_config
        if config is None:
            return {}
        settings: dict[str, Any] = json.loads(
            config.to_json_string(ignore_metadata=True, keys_to_pop=_BESIDE_TOKENS)
        )
        return settings

    @property
    def beside_prompts(self) -> dict[str, Any]:
        """Further arguments of `generate`: the tokenizer, if the model's own settings work on text."""
        return {"tokenizer": self.tokenizer} if _ON_TEXTS & self.generation_settings.keys() else {}


def labelled(name: str, weights: str) -> str:
    """Returns what results call a model with this name whose weights are "stored" or "int4"."""
    return name if weights == "stored" else f"{name} ({weights})"


def _matching(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in directory.glob(pattern) if path.is_file()})


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
