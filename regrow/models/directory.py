"""The directory a model lies in: a local one, or a snapshot of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from regrow.errors import RegrowError, UsageError, said

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def find_directory(name: str, trust_remote_code: bool) -> Path:
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
            f"{name!r} is no local directory, and the hub does not give it: {said(error)}; check the name and the network"
        ) from error


def check_weights(directory: Path) -> None:
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
            raise RegrowError(f"{path} is damaged ({said(error)}); download or copy it again") from error
