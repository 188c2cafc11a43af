"""A model directory with pruned weights, for any software that reads Hugging Face models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from regrow.calibration.calibration import Calibration
from regrow.core import Surface
from regrow.errors import RegrowError, UsageError
from regrow.method.base import Method
from regrow.models import Loaded
from regrow.whole_file import refuse_place


def refuse(method: Method, directory: Path) -> None:
    """Raises UsageError for a method without weights of its own, and for a directory that is there already or cannot be."""
    if method.surface is not Surface.WEIGHTS:
        raise UsageError(
            f"method {method.name!r} changes no weights, so there is no checkpoint to write; use --out FILE"
        )
    try:
        there = directory.exists()
    except OSError as error:  # a name too long
        raise UsageError(
            f"{directory} cannot be written: {error.strerror}; choose another --checkpoint"
        ) from error
    if there:
        raise UsageError(f"{directory} exists already; choose another --checkpoint")
    refuse_place(directory, "--checkpoint")


def write(loaded: Loaded, calibration: Calibration, directory: Path) -> None:
    """The loaded model with the calibration's weights, whole or not at all; the model itself stays as it was.

    Raises RegrowError where it cannot be written.
    """
    state = loaded.model.state_dict() | {
        name: tensor.to(loaded.model.device) for name, tensor in calibration.tensors.items()
    }
    unfinished = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        with torch.no_grad():
            loaded.model.save_pretrained(unfinished, state_dict=state)
        loaded.tokenizer.save_pretrained(unfinished)
        unfinished.rename(directory)
    except (
        Exception
    ) as error:  # a full disk is an OSError, a SafetensorError or a plain Exception, depending on who writes
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise RegrowError(
            f"{directory} cannot be written: {reason}; make room or choose another --checkpoint"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
