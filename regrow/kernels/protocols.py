"""What the pruned FFNs and linear layers of every device have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from regrow.kernels.pruned_linear.threshold import AboveThreshold


class SparseFFN(Protocol):
    """A gated FFN that computes only its retained neurons (paper, eq. 4)."""

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        ...

    def forget(self) -> None:
        """Drops the retained set, so that the next `load` does not depend on earlier ones."""
        ...

    def load(self, index: Tensor) -> int:
        """Makes `index`, in ascending order, the retained set. Returns the number of neurons copied."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D] with the retained neurons."""
        ...


class RoundedFFN(Protocol):
    """A gated FFN over weights of a few bits."""

    @property
    def state_bytes(self) -> int:
        """Bytes of codes, scales and offsets."""
        ...

    def keeping(self, keep: int) -> SparseFFN | None:
        """Returns an FFN over the same weights that retains `keep` neurons.

        None if the kernels do not take rows through an index.
        """
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Computes y [..., D] from x [..., D]."""
        ...


class MaskedLinear(Protocol):
    """A linear layer that uses only some of its inputs, chosen anew at every call."""

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        ...

    def __call__(self, x: Tensor, keep: Tensor | AboveThreshold, /) -> Tensor:
        """Computes y [..., out] from x [..., in], with every input that is not kept set to zero.

        `keep` is a mask [in] bool, or says how the mask follows from x.
        """
        ...


class MaskedLinears(Protocol):
    """Several linear layers of the same input that share one mask."""

    @property
    def state_bytes(self) -> int:
        """Bytes allocated in addition to the model's own weights."""
        ...

    def __call__(self, x: Tensor, keep: Tensor | AboveThreshold, /) -> Sequence[Tensor]:
        """Computes y [..., out] of every layer, each as `MaskedLinear` does."""
        ...
