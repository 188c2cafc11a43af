"""A model and a method, ready for one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, final

from torch import Tensor
from transformers import PreTrainedModel

from regrow.calibration.result import Calibration
from regrow.decoding.loop import Progress
from regrow.errors import UsageError
from regrow.hosts.hugging_face import Generation, active_session, generate, prune
from regrow.method.base import Method
from regrow.method.dense import Dense
from regrow.session import Session


@final
class Engine:
    """Caches, compact copies and recorded steps stay from one batch to the next; `close`, or the end of a `with`, restores the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method | None = None,
        skip_layers: Collection[int] = (),
        calibration: Calibration | None = None,
        *,
        record_masks: bool = False,
    ) -> None:
        """As `regrow.prune`; dense without a method."""
        self._model = model
        with ExitStack() as stack:
            pruned = prune(model, method or Dense(), skip_layers, calibration, record_masks=record_masks)
            self.session: Session = stack.enter_context(pruned)
            self._open = stack.pop_all()

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, watch: Callable[[Progress], None] | None = None, **generation: Any
    ) -> Generation:
        """Decodes one left-padded batch input_ids [B, P], as `regrow.generate`. Raises UsageError once the engine is closed."""
        if active_session(self._model) is not self.session:
            raise UsageError("this engine is closed; make another")
        return generate(self._model, input_ids, attention_mask, watch=watch, **generation)

    def close(self) -> None:
        """Restores the model; a second call does nothing."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
