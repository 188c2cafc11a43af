"""Drafts by a copy of the model with weights of 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import final

from regrow.adapter.quantized_copy import require_group
from regrow.decoding.drafts.guesser import Guesser
from regrow.decoding.drafts.steps import StepGuesser
from regrow.decoding.fused import FusedNetwork
from regrow.kernels import GROUP
from regrow.session import Session


@final
@dataclass(frozen=True)
class FourBit:
    """Guesses with a copy of the model whose linear layers have weights of 4 bits, and the head of 8.

    The copy is made in memory from the model's own weights, when a batch first needs it. Every weight is
    rounded to the nearest of 16 values between the ends of its group's range, with the best of a few ranges.
    The copy takes a bit more than a quarter of the bytes of bfloat16 weights, and so does a draft step read.

    Args:
        group: Weights of a row that share a scale and an offset, a multiple of 8.

    Raises:
        UsageError: If the group is not a positive multiple of 8.

    Example:
        ```python
        done = regrow.generate(model, tokenizer, prompts, lossless=regrow.Lossless(regrow.FourBit()))
        ```
    """

    group: int = GROUP

    def __post_init__(self) -> None:
        require_group(self.group)

    def guesser(self, session: Session, network: FusedNetwork) -> Guesser:
        """Returns what guesses for one batch; see `Draft`."""
        return StepGuesser(session, partial(network.draft, network.copy))
