"""The drafts by name. The command line, the benchmark and tests read this list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from regrow.decoding.drafts.cascade import Cascade
from regrow.decoding.drafts.four_bit import FourBit
from regrow.decoding.drafts.guesser import Draft
from regrow.decoding.drafts.masked import Masked
from regrow.decoding.drafts.ngram import NGram
from regrow.kernels import GROUP

DRAFTS: Final[Mapping[str, Draft]] = {
    "four-bit": FourBit(),
    "ngram": NGram(),
    "mask": Masked(),
    "mask-four-bit": Masked(GROUP),
    "cascade": Cascade(),
}
AUTO: Final = "auto"  # stands for the draft that `Lossless` chooses by itself


def name_of(draft: Draft | None) -> str:
    """Returns the name of one of these drafts, or AUTO for None."""
    return next((name for name, known in DRAFTS.items() if known == draft), AUTO)
