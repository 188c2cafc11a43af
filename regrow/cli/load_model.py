"""Loads a model for a command, with a spinner instead of the libraries' own progress bars and warnings."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from regrow.cli.bar import Bar
from regrow.cli.group import is_verbose
from regrow.cli.terminal import say
from regrow.format import percent

if TYPE_CHECKING:
    from regrow.models import Loaded

_LARGE: Final = 100 * 10**6  # bytes of weights


def load(model: str | None = None, **how: Any) -> Loaded:
    """Does what `regrow.models.load` does with the same arguments, and shows how far it is."""
    name = "the bundled model" if model is None else model
    # Progress bars of downloads stay, because a download can take minutes.
    downloads = is_remote(model)
    quieten(bars=downloads and sys.stderr.isatty())
    shown, bar = ExitStack(), Bar()

    def rounding(done: int, layers: int) -> None:
        if done == 1:
            shown.close()  # the bar takes the place of the spinner
            shown.enter_context(bar)
            bar.begin(f"rounding the weights of {name}", layers)
        bar.show(done, f"{done} of {layers} layers")

    with shown:
        if not downloads:
            shown.enter_context(Console(stderr=True).status(f"loading {name}"))
        from regrow.models import load as load_model

        loaded = load_model(model, rounding=rounding, **how)
    if loaded.rounded is not None:
        say(
            f"the weights of {name} were rounded to 4 bits, with an error of {percent(loaded.rounded.error)} "
            "of their norm"
        )
    if how.get("dtype") == "auto" and _is_slow(loaded):
        say(
            f"{name} is in {str(loaded.model.dtype).removeprefix('torch.')}, for which this CPU has no "
            "instructions; with several prompts, --dtype float32 is faster, and takes twice the memory"
        )
    return loaded


def _is_slow(loaded: Loaded) -> bool:
    """Returns True if float32 would be faster on this CPU, and the model is large enough to notice."""
    from regrow.kernels import has_instructions

    model = loaded.model
    large = sum(parameter.nbytes for parameter in model.parameters()) >= _LARGE
    return large and model.device.type == "cpu" and not has_instructions(model.dtype)


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
