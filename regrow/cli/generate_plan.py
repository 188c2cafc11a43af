"""The values of `regrow generate`: its plan, a batch of prompts, and a sample."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from regrow.calibration.calibration import Calibration
from regrow.decoding.lossless import Lossless
from regrow.method.base import Method
from regrow.sampling import Sampling

LARGEST_BATCH = 16  # unless the user asks for more
LONGEST_ANSWER = 1024  # tokens, unless the user asks for more


@final
@dataclass(frozen=True)
class Sample:
    """A prompt with its answer."""

    index: int  # of the prompt, from 0
    prompt: str
    text: str  # without special tokens
    tokens: list[int]  # the new tokens, EOS included
    finish_reason: str
    fields: dict[str, Any] = field(default_factory=dict)  # the other fields of the prompt's record

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": "sample",
            "index": self.index,
            "prompt": self.prompt,
            "text": self.text,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            **self.fields,
        }


@final
@dataclass(frozen=True)
class GeneratePlan:
    """How `regrow generate` decodes, as the user asked for."""

    method: Method
    calibration: Calibration | None = None
    batch_size: int = LARGEST_BATCH
    max_new_tokens: int | None = None  # None: what the context leaves, up to LONGEST_ANSWER
    chat: bool | None = None
    skip_layers: Collection[int] = ()
    sampling: Sampling = field(default_factory=Sampling)
    lossless: Lossless | None = None


@final
@dataclass(frozen=True)
class PromptBatch:
    """The encoded prompts of one batch, left-padded."""

    start: int  # index of its first prompt
    ids: Tensor  # [B, P]
    mask: Tensor  # [B, P]
    new: int  # tokens that each row may generate
