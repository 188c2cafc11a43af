"""Programmatic dependent launch: a kernel's programs start while the kernel before is still running.

Normally, a GPU starts a kernel of a stream only after the one before has ended. From Hopper on, a kernel may
start earlier if it waits by itself. Its programs are then in place when its inputs are ready.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

HOPPER: Final = 9  # the major compute capability


@triton.jit  # type: ignore[untyped-decorator]
def begin(EARLY: tl.constexpr) -> None:
    """Waits until the kernels before have ended, then lets the next kernel start.

    A kernel that is launched with the options of `early` calls it first, in all its programs: before that,
    it must not read or write memory that another kernel of the stream may write or read.
    """
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@functools.cache
def early(device: torch.device) -> dict[str, Any]:
    """Returns the launch options of a kernel that calls `begin`."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= HOPPER:
        return {"EARLY": True, "launch_pdl": True}
    return {"EARLY": False}
