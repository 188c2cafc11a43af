"""Loads the tokenizer stored beside a model."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from regrow.errors import UsageError
from regrow.models.blame import blaming
from regrow.models.json_object import read_object

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.*",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "spiece.*",
    "tokenization_*.py",
)
_OBJECTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")
_CONVERTERS = ("sentencepiece", "tiktoken")
# DeepSeek's own template for its R1 models and their distills (MIT licence), which some copies leave out.
_R1_TEMPLATE: Final = Path(__file__).with_name("deepseek_r1_chat_template.jinja")
_R1_TURNS: Final = ("<｜User｜>", "<｜Assistant｜>")  # tokens that only these models have
_LOG: Final = logging.getLogger(__name__)


def load_tokenizer(directory: Path, name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Returns the tokenizer in the model's directory. An R1 model without a chat template gets DeepSeek's.

    Raises UsageError if there is no tokenizer, RegrowError if its files are damaged or need a package that is
    not installed.
    """
    if not any(path for pattern in _VOCABULARIES for path in directory.glob(pattern)):
        raise UsageError(
            f"{name} has no tokenizer: {directory} holds no tokenizer.json; "
            "copy the tokenizer's files beside the weights"
        )
    with blaming(f"the tokenizer of {name} cannot be loaded", _remedy(directory)):
        try:
            tokenizer = _load(directory, trust_remote_code)
        except Exception:
            for path in filter(Path.exists, map(directory.joinpath, _OBJECTS)):
                read_object(path)  # names a damaged file, which the tokenizer's error does not
            raise
    if not tokenizer.chat_template and all(turn in tokenizer.get_vocab() for turn in _R1_TURNS):
        _LOG.info("%s has no chat template, so that of DeepSeek R1 is used", name)
        tokenizer.chat_template = _R1_TEMPLATE.read_text()
    return tokenizer


def _load(directory: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        directory, trust_remote_code=trust_remote_code
    )
    ids = tokenizer("a")["input_ids"]  # some wrong settings cause an error only in use
    if not ids and len(tokenizer.get_vocab()) <= len(tokenizer.added_tokens_decoder):
        # transformers creates an empty tokenizer if it finds no vocabulary.
        raise ValueError("its files hold no vocabulary")
    return tokenizer


def _remedy(directory: Path) -> str:
    lacking = [package for package in _CONVERTERS if find_spec(package) is None]
    if (directory / "tokenizer.json").exists() or not lacking:
        return "download or copy its files again"
    return f"there is no tokenizer.json, and other kinds may need `pip install {' '.join(lacking)}`"
