"""Finds the directory of a model: a local one, or a snapshot from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from regrow.errors import UsageError, said

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken"]


def find_directory(name: str, trust_remote_code: bool) -> Path:
    """Returns the directory of the model, which is downloaded if it is not local.

    Raises UsageError if there is no such model.
    """
    try:
        path = Path(name).expanduser()
        local, other = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # unknown user, name too long, no permission
        raise UsageError(
            f"the model directory {name!r:.200} cannot be opened: {said(error)}; give another one"
        ) from error
    if not local and (other or not _HUB_ID.fullmatch(name)):
        raise UsageError(
            f"no model directory {name!r}; "
            "give a directory with config.json and safetensors files, or a hub id such as org/name"
        )
    directory = path if local else _snapshot(name, trust_remote_code)
    if not (directory / "config.json").is_file():
        adapter = (directory / "adapter_config.json").is_file()
        remedy = (
            "it holds an adapter; merge that into its base model"
            if adapter
            else "give the directory of a Hugging Face model"
        )
        raise UsageError(f"{directory} holds no config.json; {remedy}")
    return directory


def _snapshot(name: str, trust_remote_code: bool) -> Path:
    patterns = [*_FILES, "*.py"] if trust_remote_code else _FILES
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        raise UsageError(
            f"{name!r} is not a local directory, and downloading it from the hub failed: {said(error)}; "
            "check the name and the network"
        ) from error
