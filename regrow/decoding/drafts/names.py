"""The drafts by name. The choices of the command line and its tests read this list."""

from __future__ import annotations

from typing import Final

from regrow.decoding.drafts.cascade import Cascade
from regrow.decoding.drafts.four_bit import FourBit
from regrow.decoding.drafts.guesser import Draft
from regrow.decoding.drafts.masked import Masked
from regrow.decoding.drafts.ngram import NGram

AUTO: Final = "auto"  # stands for the draft that `Lossless` chooses by itself
DRAFTS: Final[dict[str, NGram | FourBit | Masked | Cascade | None]] = {
    AUTO: None,
    "four-bit": FourBit(),
    "ngram": NGram(),
    "mask": Masked(),
    "cascade": Cascade(),
}


def name_of(draft: Draft | None) -> str:
    """Returns the name of one of these drafts."""
    return next(name for name, known in DRAFTS.items() if known == draft)
