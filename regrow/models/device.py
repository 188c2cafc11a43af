"""Finds the device that a model runs on, and checks that the device can compute in a dtype."""

from __future__ import annotations

import torch

from regrow.errors import UsageError, said


def find_device(device: str) -> torch.device:
    """Returns the device of that name; `auto` means a GPU if there is one, else the CPU.

    Raises UsageError if the device cannot be used.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target).cpu()
    except Exception as error:  # each backend raises its own errors for a missing device
        reason = said(error) if device in _gpus() else "torch finds no such device"
        raise UsageError(
            f"device {device!r:.40} cannot be used here: {reason}; use --device cpu or auto"
        ) from error
    return target


def probe(dtype: torch.dtype, device: torch.device) -> None:
    """Runs a minimal computation on the device. Raises UsageError if the device cannot compute in `dtype`."""
    try:
        ones = torch.ones(2, 2, dtype=dtype, device=device)
        torch.nn.functional.silu(ones @ ones).sum().item()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(
            f"device {device} cannot compute in {name}: {said(error)}; choose another --dtype"
        ) from error


def _gpus() -> list[str]:
    """Returns the names of the GPUs that torch sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cuda", *(f"cuda:{index}" for index in range(count))] if count else []
