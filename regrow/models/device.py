"""The device a model runs on."""

from __future__ import annotations

import torch

from regrow.errors import UsageError, said


def find_device(device: str) -> torch.device:
    """The device of that name, `auto` for a GPU if there is one. Raises UsageError for one that cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target).cpu()
    except Exception as error:  # each kind of device fails in its own way where it is not there
        reason = said(error) if device in _gpus() else "torch finds no such device"
        raise UsageError(
            f"device {device!r:.40} cannot be used here: {reason}; use --device cpu or auto"
        ) from error
    return target


def probe(dtype: torch.dtype, device: torch.device) -> None:
    """The smallest forward pass there is, to learn whether the device can do the dtype. Raises UsageError where not."""
    try:
        ones = torch.ones(2, 2, dtype=dtype, device=device)
        torch.nn.functional.silu(ones @ ones).sum().item()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(
            f"device {device} cannot compute in {name}: {said(error)}; choose another --dtype"
        ) from error


def _gpus() -> list[str]:
    """The names of the GPUs that torch sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cuda", *(f"cuda:{index}" for index in range(count))] if count else []
