"""Drafts by the pruned model: sparse steps with the mask that the latest check has selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

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

    Example:
        ```python
        lossless = regrow.Lossless(regrow.Masked())
        done = regrow.generate(model, tokenizer, prompts, method="bap", lossless=lossless)
        ```
    """

    @property
    def group(self) -> None:
        """None: there is no 4-bit copy."""

    def guesser(self, session: Session, network: FusedNetwork) -> Guesser:
        """Returns what guesses for one batch; see `Draft`.

        Raises UsageError if the method prunes nothing while decoding.
        """
        if not session.schedule.prunes:
            raise UsageError(
                f"Masked() guesses with the mask of a method, and {session.method.name} has none while "
                "decoding; name a method such as bap"
            )
        return StepGuesser(session, network.forward)
