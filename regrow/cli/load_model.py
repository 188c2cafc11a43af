"""Loads a model for a command: a spinner instead of the libraries' own bars and warnings."""

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
    """As `regrow.models.load`."""
    name = "the bundled model" if model is None else model
    # The bars of a download stay: it can take minutes.
    downloads = is_remote(model)
    quieten(bars=downloads and sys.stderr.isatty())
    if downloads:
        return _load(model, dtype, device, trust_remote_code)
    with Console(stderr=True).status(f"loading {name}"):
        return _load(model, dtype, device, trust_remote_code)


def is_remote(model: str | None) -> bool:
    """Whether it has to come from the hub."""
    try:
        return model is not None and not Path(model).expanduser().exists()
    except (OSError, RuntimeError):  # no such user, too long a name: refused where it is looked for
        return False


def quieten(*, bars: bool = False) -> None:
    """Libraries warn of errors only and, unless asked for, show no bars. They look when they are imported."""
    if not is_verbose():
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not bars:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _load(model: str | None, dtype: str, device: str, trust_remote_code: bool) -> Loaded:
    from regrow.models import load as load_model

    return load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
