"""Drafts by the pruned model: sparse steps with the mask that the latest check has selected."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from regrow.adapter.quantized_copy import require_group
from regrow.core import Mode, Pass
from regrow.decoding.drafts.guesser import Guesser
from regrow.decoding.drafts.steps import StepGuesser
from regrow.decoding.fused import FusedNetwork
from regrow.errors import UsageError
from regrow.session import Session


@final
@dataclass(frozen=True)
class Masked:
    """Guesses with the sparse steps of the method that prunes the model.

    A check reads all weights anyway, so it is also the exploration that selects the next mask.

    Args:
        group: Runs the mask on a copy of the model with weights of 4 bits, in groups of that many, as
            `FourBit` makes it. On a GPU with kernels for them, the kept neurons have weights of 4 bits too.
            Elsewhere they are computed as the method does it, with the model's own weights. None, the
            default, means: no copy.

    Raises:
        UsageError: If the group is not a positive multiple of 8.

    Example:
        ```python
        lossless = regrow.Lossless(regrow.Masked())
        done = regrow.generate(model, tokenizer, prompts, method="bap", lossless=lossless)
        ```
    """

    group: int | None = None

    def __post_init__(self) -> None:
        if self.group is not None:
            require_group(self.group)

    def guesser(self, session: Session, network: FusedNetwork) -> Guesser:
        """Returns what guesses for one batch; see `Draft`.

        Raises UsageError if the method prunes nothing while decoding.
        """
        if not session.schedule.prunes:
            raise UsageError(
                f"Masked() guesses with the mask of a method, and {session.method.name} has none while "
                "decoding; name a method such as bap"
            )
        forward = network.forward if self.group is None else _MaskedCopy(session, network).forward
        return StepGuesser(session, forward)


@final
class _MaskedCopy:
    """Runs the 4-bit copy of a model for one batch, with the session's mask once there is one."""

    def __init__(self, session: Session, network: FusedNetwork) -> None:
        self._session, self._network = session, network
        self._loaded = 0  # the selection that the FFNs have loaded

    def forward(self, planned: Pass, ids: Tensor, *, length: int, key: Hashable | None) -> Tensor:
        """Returns logits [B, V], as `Network.forward` does."""
        network, index = self._network, self._session.pruner.memory.index
        if planned.mode is not Mode.SPARSE:
            return network.draft(network.copy, planned, ids, length=length, key=key)
        keep = None if index is None else index.shape[1]
        decoder, sparse = network.masked_copy(self._session.layers, keep)
        selection = self._session.counters.updates
        if index is not None and sparse and selection != self._loaded:  # else the FFNs are the model's
            for ffn, kept in zip(sparse, index, strict=True):
                ffn.load(kept)
            self._loaded = selection
        return network.draft(decoder, planned, ids, length=length, key=key)
