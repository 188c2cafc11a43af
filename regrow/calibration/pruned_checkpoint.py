"""Writes a model directory with pruned weights, for any software that reads Hugging Face models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from regrow.calibration.calibration import Calibration
from regrow.core import Surface
from regrow.errors import RegrowError, UsageError, said, unwritable
from regrow.method.base import Method
from regrow.models import Loaded
from regrow.whole_file import refuse_place


def refuse(method: Method, directory: Path) -> None:
    """Raises UsageError if the method changes no weights, or if `directory` exists or cannot be created."""
    if method.surface is not Surface.WEIGHTS:
        raise UsageError(
            f"method {method.name!r} changes no weights, so there is no checkpoint to write; use --out FILE"
        )
    try:
        there = directory.exists()
    except OSError as error:  # such as a name that is too long
        raise UsageError(
            f"{directory} cannot be written: {error.strerror}; choose another --checkpoint"
        ) from error
    if there:
        raise UsageError(f"{directory} exists already; choose another --checkpoint")
    refuse_place(directory, "--checkpoint")


def write(loaded: Loaded, calibration: Calibration, directory: Path) -> None:
    """Saves the loaded model with the calibration's weights, completely or not at all.

    The loaded model is left unchanged. Raises RegrowError if the directory cannot be written.
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
    except OSError as error:
        raise unwritable(directory, error, "choose another --checkpoint") from error
    except Exception as error:
        # A full disk raises a SafetensorError or a plain Exception in some libraries.
        raise RegrowError(
            f"{directory} cannot be written: {said(error)}; make room or choose another --checkpoint"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
