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
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {device!r} cannot be used here: {said(error)}; use --device cpu or auto") from error
    return target


def probe(dtype: torch.dtype, device: torch.device) -> None:
    """The smallest forward pass there is, to learn whether the device can do the dtype. Raises UsageError where not."""
    try:
        ones = torch.ones(2, 2, dtype=dtype, device=device)
        torch.nn.functional.silu(ones @ ones).sum().item()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(f"device {device} cannot compute in {name}: {said(error)}; choose another --dtype") from error
