"""The FFN as an operation that torch.compile does not look into."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import direct_register_custom_op

_SUFFIX: Final = ".regrow"


def add(layers: dict[str, object], name: str, run: Callable[[Tensor], Tensor]) -> None:
    """Makes `run` what the FFN called `name` computes. `layers` is vLLM's `static_forward_context`."""
    layers[name + _SUFFIX] = run


def forward(name: str) -> Callable[[Tensor], Tensor]:
    """Returns a forward that looks up what the FFN `name` computes whenever it runs."""
    return partial(_forward, name + _SUFFIX)


def _forward(name: str, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    torch.ops.vllm.regrow_ffn(x, out, name)
    return out


def _run(x: Tensor, out: Tensor, name: str) -> None:
    out.copy_(get_forward_context().no_compile_layers[name](x))


def _fake(x: Tensor, out: Tensor, name: str) -> None:
    pass


direct_register_custom_op("regrow_ffn", _run, mutates_args=["out"], fake_impl=_fake)
