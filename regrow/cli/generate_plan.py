"""What `regrow generate` is asked to do, and what comes of it: values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from regrow.calibration.calibration import Calibration
from regrow.cli.sampling import Sampling
from regrow.method.base import Method

LARGEST_BATCH = 16  # unless the user asks for more
LONGEST_ANSWER = 1024  # likewise


@final
@dataclass(frozen=True)
class Sample:
    index: int  # of the prompt, from 0
    prompt: str
    text: str  # without special tokens
    tokens: list[int]  # new ones, the EOS included
    finish_reason: str
    fields: dict[str, Any] = field(default_factory=dict)  # what else the prompt's record holds

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
    method: Method
    calibration: Calibration | None = None
    batch_size: int = LARGEST_BATCH
    max_new_tokens: int | None = None  # None: what the context leaves, up to LONGEST_ANSWER
    chat: bool | None = None
    skip_layers: Collection[int] = ()
    sampling: Sampling = field(default_factory=Sampling)


@final
@dataclass(frozen=True)
class PromptBatch:
    start: int  # index of its first prompt
    ids: Tensor  # [B, P]
    mask: Tensor  # [B, P]
    new: int  # tokens it may generate
