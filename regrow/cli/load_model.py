"""Loads a model for a command, with a spinner instead of the libraries' own progress bars and warnings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from regrow.cli.group import is_verbose

if TYPE_CHECKING:
    from regrow.models import Loaded


def load(
    model: str | None = None, *, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> Loaded:
    """Does what `regrow.models.load` does, and shows that it is loading."""
    name = "the bundled model" if model is None else model
    # Progress bars of downloads stay, because a download can take minutes.
    downloads = is_remote(model)
    quieten(bars=downloads and sys.stderr.isatty())
    if downloads:
        return _load(model, dtype, device, trust_remote_code)
    with Console(stderr=True).status(f"loading {name}"):
        return _load(model, dtype, device, trust_remote_code)


def is_remote(model: str | None) -> bool:
    """Returns True if the model is not a local path, so it has to come from the hub."""
    try:
        return model is not None and not Path(model).expanduser().exists()
    except (OSError, RuntimeError):  # invalid name, such as an unknown user in ~user: `load` refuses it
        return False


def quieten(*, bars: bool = False) -> None:
    """Makes the libraries print errors only, and hides their progress bars unless `bars` is set.

    It must run before the libraries are imported, because they read these variables at import.
    """
    if not is_verbose():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not bars:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _load(model: str | None, dtype: str, device: str, trust_remote_code: bool) -> Loaded:
    from regrow.models import load as load_model

    return load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
